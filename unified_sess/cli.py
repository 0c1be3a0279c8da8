"""The command `unified-sess`. Each command imports what it needs when it runs, so that --help is immediate."""

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from unified_sess.errors import UserError, one_line_errors

app = typer.Typer(
    help="Clean noisy recordings and separate their speakers.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
UsageError = typer.BadParameter.__base__  # of the click that typer carries

Model = Annotated[
    str | None, typer.Option(help="Exported folder, results folder or hub id; without it the model of this package.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; without it a GPU where there is one.")]


class Extension(str, Enum):
    """File formats of results."""

    wav = "wav"
    flac = "flac"


@app.command()
def separate(
    paths: Annotated[list[str], typer.Argument(help="Audio files, folders (searched through) and globs.")],
    output_dir: Annotated[Path, typer.Option(help="Folder of the results: <name>_s1.wav, <name>_s2.wav, ...")],
    model: Model = None,
    enhanced: Annotated[bool, typer.Option("--enhanced", help="Also write <name>_enhanced: all speakers, cleaned.")] = False,
    extension: Annotated[Extension, typer.Option("--format", help="Format of the results, 16 bits.")] = Extension.wav,
    model_rate: Annotated[bool, typer.Option("--model-rate", help="Write at the model's rate, not the input's.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Separate again what has results.")] = False,
    device: Device = None,
    jobs: Annotated[int, typer.Option(help="Recordings at a time.")] = 1,
    window: Annotated[float, typer.Option(help="Longer recordings are separated in windows of so many seconds.")] = 16.0,
    overlap: Annotated[float, typer.Option(help="Seconds that windows overlap by.")] = 4.0,
    batch_size: Annotated[int, typer.Option(help="Windows that go through the network together.")] = 4,
    fixed_order: Annotated[
        bool, typer.Option("--fixed-order", help="Keep the network's order of speakers instead of tracking voices.")
    ] = False,
):
    """Separate recordings of any rate, channel count and length."""
    from unified_sess.inference import UnifiedSeparation, Windows
    from unified_sess.inference.separate_files import Options, separate_files

    options = Options(
        enhanced, extension.value, model_rate, overwrite, fixed_order, Windows(window, overlap, batch_size)
    )
    network = UnifiedSeparation.from_pretrained(model, device=checked_device(device))
    separate_files(network, paths, output_dir, options, jobs)


@app.command()
def export(
    results: Annotated[Path, typer.Argument(help="Output folder of a training.")],
    folder: Annotated[Path, typer.Argument(help="Model folder to make.")],
):
    """Make a model folder from the best checkpoint of a training."""
    from unified_sess.inference.export import export as write_model

    print(f"exported to {write_model(results, folder)}")


@app.command()
def evaluate(
    data_folder: Annotated[Path, typer.Option(help="LibriMix, WHAM! or WHAMR! folder; its test part is measured.")],
    model: Model = None,
    output_dir: Annotated[Path, typer.Option(help="Folder of test_results.csv and the report.")] = Path("evaluation"),
    mode: Annotated[str | None, typer.Option(help="min or max; without it the one that is there, min first.")] = None,
    metrics: Annotated[str, typer.Option(help="si_snr,sdr,stoi,estoi,pesq,dnsmos or all that are installed.")] = "all",
    speakers: Annotated[Path | None, typer.Option(help="LibriSpeech's SPEAKERS.TXT, for a table by gender.")] = None,
    audio_examples: Annotated[int, typer.Option(help="Mixtures to write as sound files.")] = 3,
    limit: Annotated[int | None, typer.Option(help="Measure only so many mixtures.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Worker processes for the measures.")] = None,
    device: Device = None,
):
    """Measure a model on the test part of a corpus."""
    from unified_sess.evaluation.evaluate import evaluate_command, summary_lines

    results = evaluate_command(
        data_folder,
        model,
        output_dir,
        mode=mode,
        metrics=metrics.split(","),
        jobs=jobs,
        limit=limit,
        device=checked_device(device),
        audio_examples=audio_examples,
        speakers=speakers,
    )
    print("\n".join([*summary_lines(results, output_dir), f"Report: {output_dir / 'report.html'}"]))


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Results folders, the baseline first.")],
    output: Annotated[Path | None, typer.Option(help="Folder of the comparison.")] = None,
):
    """Compare the test results of several models on the same mixtures."""
    from unified_sess.evaluation.compare import run_compare

    run_compare(folders, output)


@app.command()
def check_data(folder: Annotated[Path, typer.Argument(help="Corpus or folder of audio.")]):
    """Look for faults in a corpus: unreadable, silent or misaligned files, speakers in two splits."""
    from unified_sess.data.check import run_check

    raise typer.Exit(run_check(folder))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def show_network(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="A file of hparams/networks or an experiment.")],
):
    """Print what a network file builds: parameters, work, receptive field, memory. --NAME VALUE replaces a setting."""
    import yaml

    from unified_sess.show_network import show_network as show

    pairs = [part for argument in context.args for part in argument.split("=", 1)]
    if len(pairs) % 2 or not all(name.startswith("--") for name in pairs[::2]):
        raise UserError("settings are given as --NAME VALUE, as in --num_spks 3")
    try:
        show(path, {name[2:]: yaml.safe_load(value) for name, value in zip(pairs[::2], pairs[1::2])})
    except yaml.YAMLError:
        raise UserError(f"a setting in {' '.join(context.args)} is not a number, word or list") from None


def checked_device(name):
    """The device's name; `UserError` where there is none of that name."""
    import torch

    if name is None:
        return None
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, ValueError, NotImplementedError):
        raise UserError(f"there is no device {name!r} here: give --device cpu, or leave it out") from None
    return name


def main(arguments=None):
    """Run the command; errors that a user can cause are one line and an exit status of 1, wrong usage has 2."""
    with one_line_errors("unified-sess"):
        try:
            status = app(args=arguments, prog_name="unified-sess", standalone_mode=False)
        except UsageError as error:
            print(f"unified-sess: error: {error.format_message()} (see unified-sess --help)", file=sys.stderr)
            raise SystemExit(2) from None
        except typer.Abort:
            raise KeyboardInterrupt from None
    if isinstance(status, int) and status:
        raise SystemExit(status)


if __name__ == "__main__":
    main()
