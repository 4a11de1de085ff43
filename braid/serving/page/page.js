// A document of parts, the request that fills it, and what comes back.
//
// What a model or a file says enters the page as text, or as the source of a picture or a player:
// never as markup. The key is sent in a header to the server that served this page; there are no
// cookies. Addresses are relative, so that the page works below any prefix.
"use strict";

const SMALL = 96; // pictures up to this many pixels a side are enlarged without smoothing
const RUNS = 20; // that are kept in the page
const KINDS = { text: ["text"], image: ["image", "vision"], audio: ["audio"], label: ["label"] };
const NAMES = { text: "text", image: "picture", audio: "sound", label: "class" };
const FILES = { image: "image/png,image/jpeg,image/webp", audio: "audio/*" };
const STARTS = [
  { name: "Draw", reads: ["text"], writes: "image",
    text: "a small red circle left of a large blue square" },
  { name: "Read", reads: ["image"], writes: "text" },
  { name: "Edit", reads: ["image", "text"], writes: "image", text: "make the circle green" },
  { name: "Infill", reads: ["text"], writes: "image", begin: "paint",
    text: "a small red circle left of a large blue square" },
  { name: "Refine", reads: ["text"], writes: "image", begin: "refine",
    text: "a small red circle left of a large blue square" },
  { name: "Speak", reads: ["text"], writes: "audio", text: "theo says seven" },
  { name: "Listen", reads: ["audio"], writes: "text" },
];

const state = {
  model: null, // what the server says of it
  key: "",
  parts: [], // {kind, value}; a picture or sound is a data: URL, or "" while there is none
  draft: "", // the picture that a hole begins from
  mask: [], // of the tokens of that picture, row by row: whether it is drawn anew
  cursor: [0, 0], // row and column of the mask, for the keyboard
  last: {}, // kind -> what was made last
  running: null, // what aborts the request under way
  runs: 0,
};

document.addEventListener("DOMContentLoaded", begin);

function begin() {
  state.key = stored();
  $("entry").addEventListener("submit", (event) => {
    event.preventDefault();
    state.key = $("key").value.trim();
    meet();
  });
  $("request").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!state.running) send();
  });
  $("request").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("request").requestSubmit();
  });
  $("request").addEventListener("input", update);
  $("words").addEventListener("toggle", update);
  $("stop").addEventListener("click", () => state.running?.abort());
  $("clear").addEventListener("click", () => {
    $("results").replaceChildren();
    told();
    $("go").focus();
  });
  document.addEventListener("paste", pasted);
  for (const name of ["dragover", "drop"]) {
    document.addEventListener(name, (event) => event.preventDefault()); // a miss opens no file
  }
  beginPainting();
  meet();
}

// Ask the server what it serves, with the key where there is one.
async function meet() {
  let answer;
  try {
    answer = await fetch("v1/models", { headers: heads(), credentials: "omit" });
  } catch (error) {
    return trouble(`The server does not answer (${error.message}).`);
  }
  if (answer.status === 401) {
    trouble(state.key && "The server does not know this key.");
    $("model").textContent = "A key first";
    $("entry").hidden = false;
    $("key").focus();
    return;
  }
  if (!answer.ok) return trouble(await refusal(answer));
  trouble("");
  store(state.key);
  $("entry").hidden = true;
  state.model = (await answer.json()).data[0];
  introduce();
}

function introduce() {
  const { id, modalities, limits } = state.model;
  const named = (names) => names.map((name) => NAMES[name] ?? name).join(", ");
  const written = writable(modalities);
  document.title = `${id} - braid`;
  $("model").textContent = id;
  $("about").textContent =
    `Reads ${named(Object.keys(modalities))}. Writes ${named(written)}.`;
  $("steps").max = limits.steps;
  $("n").max = limits.results;
  $("previews").max = limits.previews;
  $("previews").value = Math.min(8, limits.previews);
  const options = () => written.map((name) => make("option", { value: name }, NAMES[name] ?? name));
  $("hole").replaceChildren(...options());
  $("after").replaceChildren(make("option", { value: "" }, "nothing"), ...options());
  $("add").replaceChildren(
    ...Object.keys(KINDS)
      .filter((kind) => readable(modalities, kind))
      .map((kind) =>
        make("button", { type: "button", onclick: () => add(kind, "") }, `Add ${NAMES[kind]}`)),
  );
  const starts = STARTS.filter((start) => possible(start, modalities));
  $("starts").replaceChildren(...starts.map((start) =>
    make("button", { type: "button", ariaPressed: "false", onclick: () => choose(start) },
      start.name)));
  $("work").hidden = false;
  if (starts.length) choose(starts[0]);
  else layOut();
}

function trouble(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

// What the model can do

function readable(modalities, kind) {
  return KINDS[kind].some((name) => name in modalities);
}

function writable(modalities) {
  return Object.keys(modalities).filter((name) => modalities[name].process);
}

function paintable(modalities, name) {
  return name === "image" && modalities[name]?.tokens.length === 2;
}

// A model that writes token by token has no state between noise and data to begin from.
function refinable(modalities, name) {
  return name === "image" && modalities[name]?.process !== "Autoregressive";
}

function possible(start, modalities) {
  const fits = { paint: paintable, refine: refinable }[start.begin] ?? (() => true);
  return start.reads.every((kind) => readable(modalities, kind)) &&
    writable(modalities).includes(start.writes) && fits(modalities, start.writes);
}

// The document

// Lay out a document of a kind; pictures, sounds and words of the one before are taken along.
function choose(start) {
  const examples = STARTS.map((other) => other.text);
  const of = (kind) => state.parts.filter((part) => part.kind === kind && part.value);
  const words = of("text").find((part) => !examples.includes(part.value));
  const drafts = start.begin ? [] : [state.draft];
  const pictures = [...of("image").map((part) => part.value), ...drafts, state.last.image];
  const sounds = [...of("audio").map((part) => part.value), state.last.audio];
  const first = (values) => values.find(Boolean) ?? "";
  const values = { text: words?.value ?? start.text, image: first(pictures), audio: first(sounds) };
  state.parts = start.reads.map((kind) => ({ kind, value: values[kind] }));
  $("hole").value = start.writes;
  $("after").value = "";
  radio("begin", start.begin ?? "noise");
  if (start.begin && !state.draft) setDraft(first(pictures));
  $("guidance").value = start.writes === "text" ? "" : 2;
  $("temperature").value = start.writes === "text" ? 0 : "";
  for (const button of $("starts").children) {
    button.ariaPressed = String(button.textContent === start.name);
  }
  layOut();
}

function add(kind, value) {
  const free = value && state.parts.find((part) => part.kind === kind && !part.value);
  if (free) free.value = value;
  else state.parts.push({ kind, value });
  layOut();
  if (!value) $("parts").lastChild.querySelector("textarea, input").focus();
}

function move(i, by) {
  const [part] = state.parts.splice(i, 1);
  state.parts.splice(i + by, 0, part);
  layOut();
  const buttons = [...$("parts").children[i + by].querySelectorAll(".head button")];
  (buttons.find((button) => !button.disabled) ?? buttons[2]).focus();
}

function remove(i) {
  state.parts.splice(i, 1);
  layOut();
  ($("parts").children[Math.max(0, i - 1)]?.querySelector(".head button:enabled") ??
    $("add").firstChild).focus();
}

function layOut() {
  $("parts").replaceChildren(...state.parts.map(partRow));
  update();
}

function partRow(part, i) {
  const name = `part ${i + 1}, ${NAMES[part.kind]}`;
  const button = (sign, what, disabled, onclick) =>
    make("button", { type: "button", className: "small", ariaLabel: `${what} ${name}`, disabled,
      onclick }, sign);
  const head = make("div", { className: "head" },
    make("span", {}, `${i + 1}. ${NAMES[part.kind]}`),
    button("\u2191", "Move up", i === 0, () => move(i, -1)),
    button("\u2193", "Move down", i === state.parts.length - 1, () => move(i, 1)),
    button("\u00d7", "Remove", false, () => remove(i)));
  const taken = (value) => {
    part.value = value;
    layOut();
    $("parts").children[i].querySelector("input").focus();
  };
  return make("li", { className: "part" }, head,
    part.kind in FILES ? slot(part.kind, part.value, name, taken) : words(part, name));
}

function words(part, name) {
  const long = part.kind === "text";
  return make(long ? "textarea" : "input", {
    type: long ? undefined : "text",
    value: part.value,
    ariaLabel: `The ${name}`,
    placeholder: long ? "A text; an empty one is left out" : "The class's number or name",
    oninput: (event) => { part.value = event.target.value; },
  });
}

// Return where a file goes in: it is chosen, dropped, or pasted anywhere in the page.
function slot(kind, value, name, taken, shown = true) {
  const input = make("input", { type: "file", accept: FILES[kind], ariaLabel: `File for ${name}`,
    onchange: () => read(kind, input.files[0], taken) });
  const box = make("div", { className: "slot" });
  if (value && shown) box.append(kind === "image" ? picture(value, name) : player(value, name));
  box.append(make("label", { className: "button" }, 
    `${value ? "Replace the" : "Choose a"} ${NAMES[kind]}`, input));
  if (!value) box.append(make("p", { className: "note" }, "or drop or paste one"));
  box.addEventListener("dragover", () => box.classList.add("over"));
  box.addEventListener("dragleave", () => box.classList.remove("over"));
  box.addEventListener("drop", (event) => {
    box.classList.remove("over");
    read(kind, event.dataTransfer.files[0], taken);
  });
  return box;
}

function pasted(event) {
  const file = event.clipboardData?.files[0];
  const kind = file?.type.split("/")[0];
  if (!state.model || !(kind in FILES) || !readable(state.model.modalities, kind)) return;
  event.preventDefault();
  const drafts = kind === "image" && begun() !== "noise" && !state.draft;
  read(kind, file, drafts ? setDraft : (value) => add(kind, value));
}

function read(kind, file, taken) {
  if (!file) return;
  if (!file.type.startsWith(`${kind}/`)) return complain(`That file is no ${NAMES[kind]}.`);
  const most = Math.floor(state.model.limits.body_bytes * 0.7); // base64 makes it longer by a third
  if (file.size > most) return complain(`That file has ${file.size} bytes; ${most} are the most.`);
  const reader = new FileReader();
  reader.onload = () => {
    complain("");
    taken(reader.result);
  };
  reader.onerror = () => complain("That file cannot be read.");
  reader.readAsDataURL(file);
}

// The picture that a hole begins from

function begun() {
  return document.querySelector("input[name=begin]:checked").value;
}

function setDraft(value) {
  state.draft = value;
  state.mask = [];
  update();
}

function cells() {
  const { modalities } = state.model;
  const name = $("hole").value;
  return paintable(modalities, name) ? modalities[name].tokens : [1, 1];
}

// Show what follows from the fields.
function update() {
  if (!state.model) return;
  const { modalities } = state.model;
  const fits = {
    paint: paintable(modalities, $("hole").value),
    refine: refinable(modalities, $("hole").value),
  };
  if (begun() !== "noise" && !fits[begun()]) radio("begin", "noise");
  $("begin").hidden = !fits.paint && !fits.refine;
  $("begin-paint").hidden = !fits.paint;
  $("begin-refine").hidden = !fits.refine;
  const how = begun();
  $("drafting").hidden = how === "noise";
  $("painting").hidden = how !== "paint" || !state.draft;
  $("refining").hidden = how !== "refine";
  $("start-value").textContent = Number($("start").value).toFixed(2);
  if ($("draft").dataset.shown !== how + state.draft) { // else the focus would be lost
    $("draft").dataset.shown = how + state.draft;
    const box = slot("image", state.draft, "the picture to begin from", setDraft, how === "refine");
    $("draft").replaceChildren(box);
  }
  if (!$("painting").hidden) easel();
  if ($("words").open) {
    const body = request(true);
    $("curl").textContent = curl(body, new URL("v1/generate", document.baseURI).href, !!state.key);
    $("python").textContent = python(body, state.model.id);
  }
}

function beginPainting() {
  const canvas = $("mask");
  let last = null;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    const [rows, columns] = cells();
    return [
      Math.floor(((event.clientY - box.top) / box.height) * rows),
      Math.floor(((event.clientX - box.left) / box.width) * columns),
    ];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = at(event);
    state.cursor = last;
    stroke(last, last, wiping() || event.button === 2);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!last) return;
    const next = at(event);
    stroke(last, next, wiping() || (event.buttons & 2) === 2);
    last = next;
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, () => { last = null; });
  }
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("keydown", keyed);
  for (const name of ["focus", "blur"]) canvas.addEventListener(name, easel);
  $("painted").addEventListener("load", sharpen);
  $("invert").addEventListener("click", () => setMask((value) => !value));
  $("wipe").addEventListener("click", () => setMask(() => false));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", update);
}

function wiping() {
  return document.querySelector("input[name=tool]:checked").value === "wipe";
}

// Paint the cells between two places, with the brush.
function stroke([fromRow, fromColumn], [toRow, toColumn], wiped) {
  const steps = Math.max(Math.abs(toRow - fromRow), Math.abs(toColumn - fromColumn), 1);
  for (let i = 0; i <= steps; i++) {
    const row = Math.round(fromRow + ((toRow - fromRow) * i) / steps);
    const column = Math.round(fromColumn + ((toColumn - fromColumn) * i) / steps);
    dab(row, column, !wiped);
  }
  update();
}

function dab(row, column, value) {
  const [rows, columns] = cells();
  const size = Number($("brush").value);
  const [top, left] = [row - Math.floor((size - 1) / 2), column - Math.floor((size - 1) / 2)];
  for (let y = Math.max(0, top); y < Math.min(rows, top + size); y++) {
    for (let x = Math.max(0, left); x < Math.min(columns, left + size); x++) {
      state.mask[y * columns + x] = value;
    }
  }
}

function keyed(event) {
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const [rows, columns] = cells();
  let [row, column] = state.cursor;
  if (event.key in moves) {
    row = Math.min(rows - 1, Math.max(0, row + moves[event.key][0]));
    column = Math.min(columns - 1, Math.max(0, column + moves[event.key][1]));
    state.cursor = [row, column];
    easel();
  } else if (event.key === " ") {
    dab(row, column, !state.mask[row * columns + column]);
    update();
  } else {
    return;
  }
  event.preventDefault();
  const painted = state.mask[row * columns + column] ? "drawn anew" : "kept";
  $("painting-at").textContent = `Row ${row + 1}, column ${column + 1}: ${painted}`;
}

function setMask(of) {
  const [rows, columns] = cells();
  state.mask = Array.from({ length: rows * columns }, (_, i) => of(!!state.mask[i]));
  update();
}

// Draw the mask over the picture, which is cut to the hole's shape as the server cuts it.
function easel() {
  const [rows, columns] = cells();
  const canvas = $("mask");
  const scale = Math.max(1, Math.round(640 / Math.max(rows, columns)));
  [canvas.width, canvas.height] = [columns * scale, rows * scale];
  $("brush").max = Math.max(1, Math.floor(Math.min(rows, columns) / 2));
  $("easel").style.aspectRatio = `${columns} / ${rows}`;
  if ($("painted").src !== state.draft) show($("painted"), state.draft);
  const ink = canvas.getContext("2d");
  for (let i = 0; i < rows * columns; i++) {
    if (!state.mask[i]) continue;
    ink.globalAlpha = 0.8;
    ink.fillStyle = color("--mark");
    ink.fillRect((i % columns) * scale, Math.floor(i / columns) * scale, scale, scale);
  }
  ink.globalAlpha = 0.45;
  ink.strokeStyle = color("--edge");
  ink.lineWidth = 1.5;
  for (let i = 0; scale >= 10 && i <= Math.max(rows, columns); i++) {
    ink.strokeRect(i * scale, -9, 0, canvas.height + 18);
    ink.strokeRect(-9, i * scale, canvas.width + 18, 0);
  }
  if (document.activeElement !== canvas) return;
  ink.globalAlpha = 1;
  ink.strokeStyle = color("--accent");
  ink.lineWidth = 8;
  const [row, column] = state.cursor;
  ink.strokeRect(column * scale + 4, row * scale + 4, scale - 8, scale - 8);
}

// The request

// Return the body of the request; what is missing is an error, or stays out of a mere sketch.
function request(sketch = false) {
  const parts = [];
  for (const [i, { kind, value }] of state.parts.entries()) {
    if (kind === "text" && !value.trim()) continue;
    if (!value && !sketch) throw new Error(`Part ${i + 1} has no ${NAMES[kind]} yet.`);
    parts.push({ type: kind, [kind]: value });
  }
  const hole = { type: "hole", modality: $("hole").value };
  const how = begun();
  if (how !== "noise") {
    if (!state.draft && !sketch) throw new Error("Give a picture to begin from.");
    hole.draft = { type: "image", image: state.draft };
  }
  if (how === "paint") {
    const [rows, columns] = cells();
    hole.keep = kept(state.mask, rows, columns);
    if (!state.mask.some(Boolean) && !sketch) throw new Error("Paint over a part of the picture.");
  }
  if (how === "refine") hole.start = Number($("start").value);
  parts.push(hole);
  if ($("after").value) parts.push({ type: "hole", modality: $("after").value });
  const body = { model: state.model.id, parts };
  for (const name of ["n", "seed", "steps", "guidance", "temperature", "previews"]) {
    const field = $(name);
    const bad = !field.checkValidity();
    if (bad && !sketch) {
      throw new Error(`${field.labels[0].firstChild.data.trim()}: ${field.validationMessage}`);
    }
    if (field.value !== "" && !bad) body[name] = Number(field.value);
  }
  return { ...body, stream: true };
}

function kept(mask, rows, columns) {
  return Array.from({ length: rows }, (_, y) =>
    Array.from({ length: columns }, (_, x) => !mask[y * columns + x]));
}

async function send() {
  complain("");
  say("");
  let body;
  try {
    body = request();
  } catch (error) {
    return complain(error.message);
  }
  body.seed ??= crypto.getRandomValues(new Uint32Array(1))[0]; // told even of what is stopped
  const run = new Run(body);
  const began = performance.now();
  busy(new AbortController());
  say("Generating ...");
  try {
    const answer = await fetch("v1/generate", {
      method: "POST",
      headers: { ...heads(), "content-type": "application/json" },
      credentials: "omit",
      body: JSON.stringify(body),
      signal: state.running.signal,
    });
    if (!answer.ok) throw new Error(await refusal(answer));
    let whole = null;
    for await (const event of events(answer.body)) {
      if (event.error) throw new Error(event.error.message);
      run.hear(event);
      if (event.object === "generation") whole = event;
    }
    if (!whole) throw new Error("The answer ended before its end.");
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    run.end(`${whole.results[0].calls} calls, ${seconds} s`);
    say("Done.");
  } catch (error) {
    const stopped = state.running.signal.aborted;
    run.end(stopped ? "stopped" : "failed");
    say(stopped ? "Stopped." : "");
    if (!stopped) complain(error.message);
  }
  busy(null);
}

function busy(controller) {
  state.running = controller;
  $("go").disabled = !!controller;
  $("stop").disabled = !controller;
}

// Yield the objects of a stream of server-sent events.
async function* events(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    rest += decoder.decode(value, { stream: !done });
    const lines = rest.split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const data = line.startsWith("data:") ? line.slice(5).trim() : "";
      if (data && data !== "[DONE]") yield JSON.parse(data);
    }
    if (done) return;
  }
}

// Return what the server says of a request that it refused.
async function refusal(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `The server answered ${answer.status}.`;
  }
}

function heads() {
  return state.key ? { authorization: `Bearer ${state.key}` } : {};
}

// Results

// One request's results.
class Run {
  constructor(body) {
    this.body = body;
    this.made = new Map();
    this.grid = make("div", { className: "made" });
    this.meta = make("span", { className: "note" }, "");
    const words = body.parts.filter((part) => part.type === "text").map((part) => part.text);
    const keep = () => {
      $("seed").value = body.seed;
      update();
    };
    this.section = make("section", { className: "card run", ariaLabel: `Run ${++state.runs}` },
      words.length ? make("p", { className: "said" }, words.join(" / ")) : "",
      make("div", { className: "row" },
        make("span", { className: "note" }, `Run ${state.runs}, seed ${body.seed}`), this.meta,
        make("button", { type: "button", className: "small", onclick: keep }, "Keep this seed")),
      this.grid);
    $("results").prepend(this.section);
    while ($("results").children.length > RUNS) $("results").lastChild.remove();
    told();
    const below = matchMedia("(max-width: 820px)").matches; // the results stand below the form
    this.section.scrollIntoView({ block: below ? "start" : "nearest" });
  }

  hear(event) {
    if (event.object === "generation.text") {
      this.of(event.result, event.part, "text").write(event.text);
    } else if (event.object === "generation.preview") {
      const { type } = event.belief;
      const when = `call ${event.call + 1}, time ${event.time.toFixed(2)}`;
      this.of(event.result, event.part, type).frame(event.belief[type], when);
    } else if (event.object === "generation") {
      for (const [i, result] of event.results.entries()) {
        for (const part of result.parts) {
          this.of(i, part.part, part.type).finish(part[part.type], part.closed);
        }
      }
    }
  }

  of(result, part, kind) {
    const name = `${result}.${part}`;
    if (!this.made.has(name)) {
      const made = new Made(kind, this.body.n > 1 ? `result ${result + 1}` : "result");
      this.made.set(name, made);
      this.grid.append(made.figure);
    }
    return this.made.get(name);
  }

  end(text) {
    this.meta.textContent = text;
    for (const made of this.made.values()) made.end();
    if (!this.made.size) this.section.remove();
    told();
  }
}

// One part that is being made: what was believed of it at several times, and what it became.
class Made {
  constructor(kind, name) {
    [this.kind, this.name, this.frames, this.written] = [kind, name, [], ""];
    this.caption = make("figcaption", {}, name);
    this.slider = make("input", { type: "range", min: 0, step: 1, hidden: true,
      ariaLabel: `Trajectory of ${name}`, oninput: () => this.look(Number(this.slider.value)) });
    this.actions = make("div", { className: "row", hidden: true });
    this.stage = { image: () => picture("", name), audio: () => player("", name),
      text: () => make("p", { className: "text" }) }[kind]?.() ?? make("p", { className: "text" });
    this.wave = kind === "audio" ? make("canvas", { width: 640, height: 192, role: "img",
      ariaLabel: `Waveform of ${name}` }) : "";
    this.figure = make("figure", {}, this.wave, this.stage, this.caption, this.slider,
      this.actions);
  }

  write(text) {
    this.written += text;
    this.put(this.written, true);
  }

  frame(value, when) {
    this.frames.push({ value, when });
    this.slider.max = this.frames.length - 1;
    this.slider.hidden = this.frames.length < 2;
    this.slider.value = this.frames.length - 1;
    if (!this.written) this.look(this.frames.length - 1);
  }

  finish(value, closed) {
    this.whole = value;
    this.frame(value, this.kind === "text" && !closed ? "ended for want of room" : "finished");
    this.look(this.frames.length - 1);
    state.last[this.kind] = value;
  }

  look(i) {
    const { value, when } = this.frames[i];
    this.caption.textContent = `${this.name}: ${when}`;
    this.slider.setAttribute("aria-valuetext", when);
    this.put(value, value === this.whole);
  }

  put(value, certain) {
    if (this.kind === "image" || this.kind === "audio") show(this.stage, value);
    else this.stage.textContent = value;
    if (this.kind === "audio") wave(this.wave, value);
    this.stage.classList.toggle("belief", !certain && this.kind === "text");
  }

  end() {
    const shown = () => this.frames[Number(this.slider.value)]?.value ?? this.written;
    if (!shown() && !this.frames.length) return;
    const button = (text, onclick) =>
      make("button", { type: "button", className: "small", onclick }, text);
    const { modalities } = state.model;
    this.actions.append(button("Download", () => save(shown(), this.kind)));
    if (this.kind in KINDS && readable(modalities, this.kind)) {
      this.actions.append(button("Use as part", () => add(this.kind, String(shown()))));
    }
    if (this.kind === "image") {
      this.actions.append(button("Use as draft", () => {
        if (begun() === "noise") {
          $("hole").value = "image";
          radio("begin", paintable(modalities, "image") ? "paint" : "refine");
        }
        setDraft(shown());
      }));
    }
    this.actions.hidden = false;
  }
}

// Save what is shown as a file.
function save(value, kind) {
  const [head, content] = String(value).split(";base64,");
  const media = kind in FILES ? head.slice(5) : "text/plain";
  const data = kind in FILES ? bytes(content) : String(value);
  const ending = { "image/png": "png", "image/jpeg": "jpg", "audio/wav": "wav" }[media] ?? "txt";
  const link = make("a", { href: URL.createObjectURL(new Blob([data], { type: media })),
    download: `${state.model.id}.${ending}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function bytes(content) {
  return Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
}

// Draw the samples of a WAV file of 16 bits; the loudest one fills the height.
function wave(canvas, url) {
  const data = samples(bytes(url.split(";base64,")[1]));
  const ink = canvas.getContext("2d");
  const { width, height } = canvas;
  ink.clearRect(0, 0, width, height);
  ink.fillStyle = color("--accent");
  const loudest = Math.max(0.01, data.reduce((most, value) => Math.max(most, Math.abs(value)), 0));
  for (let x = 0; x < width; x += 4) {
    const from = Math.floor((x / width) * data.length);
    const near = data.slice(from, Math.max(from + 1, ((x + 4) / width) * data.length));
    const high = Math.max(0.01, ...near.map((value) => Math.abs(value) / loudest)) * height;
    ink.fillRect(x, (height - high) / 2, 3, high);
  }
}

// Return the samples of a WAV file of 16 bits and one channel, -1 to 1.
function samples(file) {
  const view = new DataView(file.buffer);
  let at = 12;
  while (at + 8 <= file.length && view.getUint32(at) !== 0x64617461) { // "data"
    at += 8 + view.getUint32(at + 4, true);
  }
  const out = [];
  for (let i = at + 8; i + 1 < file.length; i += 2) out.push(view.getInt16(i, true) / 32768);
  return out;
}

// The same in words

function shortened(body) {
  const short = (name, value) =>
    typeof value === "string" && value.startsWith("data:") ? `${value.slice(0, 40)}...` : value;
  return JSON.stringify(body, short);
}

function curl(body, address, keyed) {
  const lines = [
    `curl -N ${address}`,
    ...(keyed ? ['-H "authorization: Bearer $BRAID_API_KEY"'] : []),
    "-H 'content-type: application/json'",
    `-d '${shortened(body).replaceAll("'", "'\\''")}'`,
  ];
  return lines.join(" \\\n  ");
}

function python(body, model) {
  const pictured = JSON.stringify(body.parts).includes('"type":"image"');
  const parts = body.parts.map((part, i) => {
    if (part.type === "text") return JSON.stringify(part.text);
    if (part.type === "image") return `Image.open("part-${i + 1}.png")`;
    if (part.type === "audio") return `braid.Part("audio", "part-${i + 1}.wav")`;
    if (part.type === "label") return `braid.Part("label", ${JSON.stringify(part.label)})`;
    const words = [JSON.stringify(part.modality)];
    if (part.draft) words.push('draft=Image.open("draft.png")');
    if (part.keep) words.push(`keep=${truths(part.keep)}`);
    if (part.start) words.push(`start=${part.start}`);
    return `braid.Hole(${words.join(", ")})`;
  });
  const options = ["steps", "guidance", "temperature", "seed"]
    .filter((name) => name in body)
    .map((name) => `${name}=${body[name]}`);
  if (body.n > 1) options.push(`n=${body.n}`);
  return [
    "import braid",
    ...(pictured ? ["from PIL import Image"] : []),
    "",
    `pipe = braid.load(${JSON.stringify(model)})  # or its folder, or its id on the Hub`,
    "parts = pipe(",
    `    [${parts.join(", ")}],`,
    ...options.map((option) => `    ${option},`),
    ")",
    body.n > 1 ? "print([one[-1] for one in parts])" : "print(parts[-1])",
  ].join("\n");
}

function truths(rows) {
  const row = (values) => `[${values.map((value) => (value ? "True" : "False")).join(", ")}]`;
  return `[${rows.map(row).join(", ")}]`;
}

// Small helpers

function $(id) {
  return document.getElementById(id);
}

function make(tag, properties, ...children) {
  const one = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value !== undefined) one[name] = value;
  }
  one.append(...children);
  return one;
}

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name);
}

function picture(url, name) {
  const one = make("img", { alt: name });
  one.addEventListener("load", sharpen);
  if (url) show(one, url);
  return one;
}

function sharpen(event) {
  const { naturalWidth, naturalHeight, classList } = event.target;
  classList.toggle("pixels", Math.max(naturalWidth, naturalHeight) <= SMALL);
}

function player(url, name) {
  const one = make("audio", { controls: true, ariaLabel: name });
  if (url) show(one, url);
  return one;
}

// Give a picture or a player its content, which is never an address.
function show(one, url) {
  if (/^data:(image|audio)\//.test(url)) one.src = url;
}

function radio(name, value) {
  document.querySelector(`input[name=${name}][value=${value}]`).checked = true;
}

function say(text) {
  $("status").textContent = text;
}

function complain(text) {
  $("error").textContent = text;
  $("error").hidden = !text;
}

function told() {
  const none = !$("results").children.length;
  $("empty").hidden = !none;
  $("clear").hidden = none;
}

// Storage may be forbidden; the key then lasts as long as the page.
function stored() {
  try {
    return sessionStorage.getItem("braid-key") ?? "";
  } catch {
    return "";
  }
}

function store(key) {
  try {
    if (key) sessionStorage.setItem("braid-key", key);
  } catch {
    // it stays in memory
  }
}
