"""Download and upload of tuned models; the only module that uses the hub's library.

The library is imported on first use: a local model does not need it.
"""

import re
from pathlib import Path

from foveate.errors import InputError
from foveate.readers import one_line
from foveate.train.checkpoint import CARD, CONFIG, SCORES, TENSORS, TRUST


def download(source: str) -> Path:
    """Return a folder with the model of hub id `source`.

    Raises:
        InputError: The source is no hub id, the hub does not have it, or the hub cannot be reached.
    """
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source):
        raise InputError(
            f"{source}: no such folder; give the one that `foveate fit --out` wrote, or a hub id"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, allow_patterns=[CONFIG, TENSORS, CARD, TRUST, SCORES]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"{source}: no such folder here, and the hub does not have it or cannot be reached; "
            "give the folder that `foveate fit --out` wrote"
        ) from error


def upload(folder: Path, repository: str, *, private: bool) -> str:
    """Upload a model folder to the hub; return its URL.

    Raises:
        InputError: The hub refuses: no login, no permission, no network.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder))
    except Exception as error:  # no network: an error of the HTTP client, an indirect dependency
        raise InputError(f"cannot push to {repository}: {one_line(error, 200)}") from error
