"""The README.md of a model folder, with the hub's metadata header."""

from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from unified_sess.utils.files import atomic_path

METRICS = {  # in test_results.csv: as people write them
    "si_snr": "SI-SNR (dB)",
    "si_snri": "SI-SNRi (dB)",
    "sdr": "SDR (dB)",
    "sdri": "SDRi (dB)",
    "se_si_snr": "SI-SNR of the enhanced mixture (dB)",
    "se_si_snri": "SI-SNRi of the enhanced mixture (dB)",
    "se_si_snr_noisy": "SI-SNR of the noisy mixture against the clean one (dB)",
    "input_snr": "SNR of the mixture (dB)",
    "stoi": "STOI",
    "stoi_mixture": "STOI of the mixture",
    "estoi": "ESTOI",
    "estoi_mixture": "ESTOI of the mixture",
    "pesq": "PESQ",
    "pesq_mixture": "PESQ of the mixture",
    "dnsmos_ovrl": "DNSMOS overall",
    "dnsmos_sig": "DNSMOS speech",
    "dnsmos_bak": "DNSMOS background",
    "dnsmos_p808": "DNSMOS P.808",
    "dnsmos_ovrl_mixture": "DNSMOS overall of the mixture",
}
BODY = """
# {title}

One network that cleans a noisy mixture and separates its {num_spks} speakers, trained with gradient modulation
([Hu et al. 2023](https://arxiv.org/abs/2302.11131)); {parameters:.3g} M parameters, audio at {sample_rate} Hz.

{results}

## Use

Safe for files of strangers, nothing in this folder is executed (`pip install unified_sess`):

```python
from unified_sess.inference import UnifiedSeparation

model = UnifiedSeparation.from_pretrained("FOLDER OR HUB ID")
sources = model.separate_file("mixture.wav")  # [1, time, {num_spks}] at {sample_rate} Hz
```

```
unified-sess separate mixture.wav --model "FOLDER OR HUB ID" --output-dir separated
```
"""
SPEECHBRAIN = """
With SpeechBrain, which runs this folder's `hyperparams.yaml`, `custom.py` and checkpoints:

```python
from speechbrain.inference.interfaces import foreign_class
from speechbrain.inference.separation import SepformerSeparation

model = SepformerSeparation.from_hparams(source="FOLDER OR HUB ID")  # needs unified_sess installed
model = foreign_class(source="FOLDER OR HUB ID", pymodule_file="custom.py", classname="CustomInterface")
```
"""


def write_model_card(folder, config, modules, evaluations=(), title="Speech enhancement and separation"):
    """Write `README.md`.

    Arguments
    ---------
    folder : str or Path
        The model folder.
    config : ModelConfig
        Speakers and sample rate.
    modules : mapping of torch.nn.Module
        For the number of parameters.
    evaluations : list of EvalResult
        Of the test part, from `evaluations_of` or `read_evaluations`; empty for a model that was not measured.
    title : str
        First heading.
    """
    data = ModelCardData(
        library_name="unified_sess",
        pipeline_tag="audio-to-audio",
        tags=["speech-separation", "speech-enhancement", "speechbrain", "unified_sess"],
        model_name=title if evaluations else None,
        eval_results=list(evaluations) or None,
    )
    text = BODY.format(
        title=title,
        num_spks=config.num_spks,
        sample_rate=config.sample_rate,
        parameters=sum(p.numel() for module in modules.values() for p in module.parameters()) / 1e6,
        results=_table(evaluations),
    )
    if (Path(folder) / "hyperparams.yaml").is_file():
        text += SPEECHBRAIN
    with atomic_path(Path(folder) / "README.md") as temporary:
        Path(temporary).write_text(f"---\n{data.to_yaml()}\n---\n{text}", encoding="utf-8")


def evaluations_of(results):
    """Means of a `unified_sess.evaluation.results.Results` as the hub's records."""
    return [
        EvalResult(
            task_type="audio-to-audio",
            task_name="Speech separation",
            dataset_type="test",
            dataset_name=f"{len(results)} mixtures of the test part",
            metric_type=name,
            metric_name=METRICS.get(name, name),
            metric_value=round(value, 4),
        )
        for name, value in results.means().items()
        if value is not None
    ]


def read_evaluations(folder):
    """The records in the card of a model folder; none where there is no card or it cannot be read."""
    try:
        return ModelCard.load(Path(folder) / "README.md").data.eval_results or []
    except Exception:  # noqa: BLE001 - a card of any kind, also of a stranger, must not keep its model from loading
        return []


def _table(evaluations):
    if not evaluations:
        return "It was not measured on a test part."
    lines = ["| measure | mean |", "|---|---|"]
    lines += [f"| {e.metric_name or e.metric_type} | {e.metric_value} |" for e in evaluations]
    return f"Means over {evaluations[0].dataset_name}:\n\n" + "\n".join(lines)
