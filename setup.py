"""Package metadata; `pip install -e ".[demo]"` installs what the first run needs."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = {}
exec((HERE / "unified_sess" / "__init__.py").read_text(encoding="utf-8"), VERSION)

DEMO = ["espeakng-loader>=0.2.4"]  # voices inside the package: demo speech without a download
METRICS = ["pesq>=0.0.4", "speechmos>=0.0.1", "librosa>=0.10", "onnxruntime>=1.16", "requests"]
TORCHJD = ["torchjd>=0.18"]

setup(
    name="unified_sess",
    version=VERSION["__version__"],
    description="Speech enhancement and separation in one network, trained with gradient modulation",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["unified_sess", "unified_sess.*"]),
    package_data={"unified_sess": ["models/default/*"]},  # the model that ships
    install_requires=[
        # torchaudio refuses to import beside another torch, so the two move together.
        "torch>=2.11,<2.12",
        "torchaudio>=2.11,<2.12",
        "speechbrain>=1.1.2,<1.2",
        "hyperpyyaml>=1.2.2",
        "numpy",
        "pandas",
        "soundfile>=0.12",
        "soxr>=0.3",
        "scipy",
        "pyloudnorm>=0.1.1",
        "fast_bss_eval>=0.1.4",
        "pystoi>=0.4",
        "safetensors>=0.4",
        "huggingface_hub>=0.23",
        "matplotlib",
        "tensorboard",
        "tqdm",
        "typer>=0.12",
        "rich",
    ],
    extras_require={
        "demo": DEMO,
        "metrics": METRICS,
        "torchjd": TORCHJD,
        "test": DEMO + TORCHJD + ["mir_eval>=0.7", "pytest>=8", "pytest-xdist>=3", "pytest-timeout"],
    },
    entry_points={"console_scripts": ["unified-sess = unified_sess.cli:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
    ],
)
