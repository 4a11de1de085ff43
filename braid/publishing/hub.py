"""Models on the Hub."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from braid.errors import BraidError
from braid.hub import first_line, library
from braid.publishing.folder import CARD, hand_written, save

MESSAGE = "Upload a model of braid"

if TYPE_CHECKING:
    from braid.pipeline import Pipeline


def push(
    pipe: Pipeline,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = MESSAGE,
    revision: str | None = None,
    create_pr: bool = False,
    license: str | None = None,
) -> str:
    """Upload a model with its card; the repository is made if there is none.

    A card on the Hub that somebody wrote or changed stays as it is. HF_TOKEN, HF_ENDPOINT and
    HF_HUB_OFFLINE are honoured.

    Args:
        pipe: the model.
        repo_id: owner/name; a name alone is the token's owner's.
        private: of a repository that is made; None is the owner's default.
        token: with the right to write; None takes the one of HF_TOKEN or `hf auth login`.
        commit_message: of the commit.
        revision: branch to write to, made if there is none; None is main.
        create_pr: open a pull request instead of writing to the branch.
        license: for the card.

    Returns:
        The address of the commit.

    Raises:
        BraidError: the Hub refuses, or cannot be reached.
    """
    if create_pr and revision is not None:
        raise BraidError(
            f"create_pr opens a pull request against main, not against {revision!r}; leave "
            "revision out"
        )
    api = library("huggingface_hub").HfApi(token=token, library_name="braid")
    with tempfile.TemporaryDirectory() as scratch, _told(repo_id):
        repository = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        folder = save(pipe, Path(scratch, "model"), name=repository, license=license)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        if _keeps_card(api, repository, revision):
            (folder / CARD).unlink()
        done = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
        )
    return done.pr_url if create_pr else done.commit_url


def _keeps_card(api: Any, repository: str, revision: str | None) -> bool:
    """Return whether the Hub has a card that braid did not write."""
    if not api.file_exists(repository, CARD, revision=revision):
        return False
    return hand_written(Path(api.hf_hub_download(repository, CARD, revision=revision)))


@contextmanager
def _told(repo_id: str) -> Iterator[None]:
    try:
        yield
    except BraidError:
        raise
    except Exception as e:  # each way of transport has errors of its own
        raise BraidError(
            f"the Hub did not take {repo_id!r} ({first_line(e)}); check the name, the network and "
            "that the token (HF_TOKEN, `hf auth login` or token=) may write there"
        ) from e
