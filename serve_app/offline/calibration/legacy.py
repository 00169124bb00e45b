"""The earlier system's call, on `calibrate_targets`.

There a calibration could replace the numbers of the process it ran in (`update_globals`). Here the
numbers in use are those of the setting TARGETS_FILE, so that is what is set.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from serve_app.core.errors import ConfigError
from serve_app.offline.calibration.run import calibrate_targets


def calibrateTargets(  # noqa: N802 - the earlier system's name
    path: str | Path,
    save_to: str | Path | None = None,
    subset: float = 1.0,
    chunk_size: int = 16,
    update_globals: bool = False,
    seed: int = 0,
    progress: bool = True,
    *,
    split: str | None = "train",
) -> dict[str, Any]:
    """Measures human summaries with the models of the settings; see `calibrate_targets`.

    Args:
        path: the corpus.
        save_to: where to write the targets file; None: nowhere.
        subset: share of the rows to use, in (0, 1].
        chunk_size: pairs measured at once, >= 1.
        update_globals: use the new targets from now on in this process: TARGETS_FILE becomes
            the absolute path of `save_to` in its environment, for all settings read later, here
            or in a process started from here. A server that is running keeps its targets until
            it is started again with that setting.
        seed: of the random subset.
        progress: show a progress bar on standard error.
        split: use rows with this value in `split` only; None: all rows.

    Returns:
        What the targets file holds, by the earlier keys (`TARGET_FKGL`, `SIGMA_FKGL`, ...).

    Raises:
        ConfigError: as `calibrate_targets`; or `update_globals` without `save_to`.
    """
    if update_globals and save_to is None:
        raise ConfigError(
            "update_globals makes later scores use the targets through TARGETS_FILE, so it needs "
            "a file: give save_to as well"
        )
    targets = calibrate_targets(
        path, save_to, subset, chunk_size, seed=seed, progress=progress, split=split
    )
    if update_globals and save_to is not None:
        os.environ["TARGETS_FILE"] = str(Path(save_to).expanduser().absolute())
    return targets.to_dict()
