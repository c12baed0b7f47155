"""Weights from the Hugging Face hub: progress, resume and cache are the hub library's; the words are ours."""

from __future__ import annotations

from pathlib import Path

from percepta.catalog import Card
from percepta.errors import MissingWeights


def fetch(card: Card) -> Path:
    """The local path of a card's weights, downloaded on first use (progress bar, resumable).

    `HF_HUB_OFFLINE=1` is respected: then only the cache is read.

    Raises: MissingWeights saying what is missing and how to get it.
    """
    if not card.hub:
        raise MissingWeights(f"{card.name} has no weights on the hub and none are packaged; pass weights=FILE.")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(hf_hub_download(card.hub, card.hub_file))
    except GatedRepoError as error:
        reason = f"its owner asks for a login (run: hf auth login, and accept the terms of {card.hub})"
        raise MissingWeights(f"the weights of {card.name} are not at hand: {reason}.") from error
    except OfflineModeIsEnabled as error:
        raise _unreachable(card, "HF_HUB_OFFLINE is set") from error
    except LocalEntryNotFoundError as error:
        raise _unreachable(card, "the hub cannot be reached") from error
    except (HfHubHTTPError, OSError) as error:
        raise _unreachable(card, f"the download failed ({type(error).__name__})") from error


def _unreachable(card: Card, why: str) -> MissingWeights:
    return MissingWeights(
        f"the weights of {card.name} are not on this machine and {why}; "
        f"download {card.hub_file} from the repository {card.hub} where there is a network and pass weights=FILE."
    )
