#!/usr/bin/env bash
# Train and measure every model of docs/results.md: DATA=folder of Parquet files, MINUTES=budget of
# each model. On two CPU cores MINUTES=60 takes a day; a GPU is used where there is one.
# Runs that are there go on where they stopped, so the script may be started again.
set -euo pipefail
cd "$(dirname "$0")/.."

DATA=${DATA:?set DATA to the folder of the data}
MINUTES=${MINUTES:-60}
MACHINE=${MACHINE:-"$(nproc) CPU cores"}
BRAID=${BRAID:-.venv/bin/braid}
PYTHON=${PYTHON:-.venv/bin/python}

codec() { # NAME RECIPE SETTINGS...
  test -f "codecs/$1/codec.json" || "$BRAID" codec train "$2" "${@:3}" --out "codecs/$1"
  "$PYTHON" docs/make_results.py add "codecs/$1" --name "codec-$1" --machine "$MACHINE"
}

model() { # RECIPE-PARADIGM RECIPE SETTINGS...
  "$BRAID" train "$2" train.minutes="$MINUTES" "${@:3}" --out "runs/$1"
  "$BRAID" evaluate "runs/$1" --json >/dev/null
  # a recipe may exchange a process of its paradigm, so the experiment does not always tell which
  "$PYTHON" docs/make_results.py add "runs/$1" --name "$1" --paradigm "${1#*-}" --machine "$MACHINE"
}

emoji=(data.path="$DATA/emoji-train.parquet" data.validation="$DATA/emoji-validation.parquet")
cifar=("data.path=$DATA/cifar10-train-*.parquet" data.validation="$DATA/cifar10-validation.parquet")
speech=(data.path="$DATA/speech-train.parquet" data.validation="$DATA/speech-validation.parquet")

codec scenes-vq scenes codec.quantiser=vq:512x8
codec scenes-kl scenes codec.quantiser=kl:4,1e-4
codec emoji-vq emoji "${emoji[@]}"
codec emoji-kl emoji "${emoji[@]}" codec.quantiser=kl:4,1e-6
codec cifar10-vq cifar10 "${cifar[@]}"
codec cifar10-kl cifar10 "${cifar[@]}" codec.quantiser=kl:4,1e-5
codec speech-kl speech "${speech[@]}" codec.quantiser=kl:16

encoded() { # CODEC FOLDER: scenes are encoded once, not at every step
  test -f "data/$2/cache.json" || "$BRAID" codec encode "$1" scenes "data/$2"
}
encoded mini/image-codec scenes-levels
encoded codecs/scenes-vq scenes-vq
encoded codecs/scenes-kl scenes-kl
declare -A scenes=([fudoki]=levels [mmada]=levels [chameleon]=vq [transfusion]=kl)

for paradigm in fudoki transfusion chameleon mmada; do
  model "scenes-$paradigm" scenes paradigm=$paradigm data.source=files \
    data.path="data/scenes-${scenes[$paradigm]}"
  model "cifar10-$paradigm" cifar10 paradigm=$paradigm "${cifar[@]}"
  model "speech-$paradigm" speech paradigm=$paradigm "${speech[@]}"
done
for paradigm in fudoki transfusion; do
  model "emoji-$paradigm" emoji paradigm=$paradigm "${emoji[@]}"
done
"$PYTHON" docs/make_results.py
