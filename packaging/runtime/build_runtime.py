"""Builds the small package: setuptools, after taking the files that separate without torch from the repository.

They are copied into the folder `sources`, where a source distribution has them too and needs no repository.
"""

import shutil
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403 - what a build backend offers

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
# Below unified_sess: files, or folders of which every file is taken.
FILES = (
    "__init__.py",
    "cli.py",
    "moved.py",
    "py.typed",
    "inference/__init__.py",
    "inference/activity.py",
    "inference/cepstrum.py",
    "inference/files",
    "inference/loudness.py",
    "inference/onnx_separator.py",
    "inference/passes.py",
    "inference/runtime.py",
    "inference/scale.py",
    "inference/tracker.py",
    "inference/voices",
    "inference/windows.py",
    "model_io/__init__.py",
    "model_io/model_folder.py",
    "model_io/onnx_file.py",
    "model_io/onnx_session.py",
    "models/default/README.md",
    "models/default/model.onnx",
    "models/voices",
    "utils/__init__.py",
    "utils/allocator.py",
    "utils/audio",
    "utils/errors.py",
    "utils/files.py",
    "utils/installed.py",
    "utils/names.py",
    "utils/parallel.py",
)


def gather() -> None:
    """Copy the files from the repository; outside of one they are there already."""
    if not (REPOSITORY / "unified_sess").is_dir():
        return
    shutil.rmtree(HERE / "sources", ignore_errors=True)
    for name in FILES:
        source, target = REPOSITORY / "unified_sess" / name, HERE / "sources" / "unified_sess" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    for name in ("LICENSE", "NOTICE"):
        shutil.copy(REPOSITORY / name, HERE)


def build_wheel(*arguments, **options):  # noqa: D103 - PEP 517
    gather()
    shutil.rmtree(HERE / "build", ignore_errors=True)  # setuptools keeps files there that are no longer
    return build_meta.build_wheel(*arguments, **options)


def build_sdist(*arguments, **options):  # noqa: D103 - PEP 517
    gather()
    return build_meta.build_sdist(*arguments, **options)


def prepare_metadata_for_build_wheel(*arguments, **options):  # noqa: D103 - PEP 517
    gather()
    return build_meta.prepare_metadata_for_build_wheel(*arguments, **options)


def get_requires_for_build_wheel(*arguments, **options):  # noqa: D103 - PEP 517
    gather()
    return build_meta.get_requires_for_build_wheel(*arguments, **options)
