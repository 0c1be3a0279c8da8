"""The command `unified-sess`. Each command imports what it needs when it runs, so that --help is immediate."""

import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unified_sess.utils.allocator import keep_freed_memory
from unified_sess.utils.errors import INTERRUPTED, UserError, one_line_errors
from unified_sess.utils.installed import has_torch

if TYPE_CHECKING:
    from unified_sess.inference.voices.speakers import SpeakerNetwork
    from unified_sess.utils.audio import Channel

app = typer.Typer(
    help="Clean noisy recordings and separate their speakers.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
UsageError: Any = typer.BadParameter.__base__  # of the click that typer carries

Model = Annotated[
    str | None,
    typer.Option(help="Exported folder, results folder or hub id; without it the model of this package."),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; without it a GPU where there is one.")]

Voices = Annotated[
    str | None,
    typer.Option(
        help="ONNX network of speakers that tells voices apart, file or OWNER/REPOSITORY/FILE of the hub; slower, surer."
    ),
]


class RuntimeName(str, Enum):
    """What runs a network."""

    torch = "torch"
    onnx = "onnx"


class Extension(str, Enum):
    """File formats of results."""

    wav = "wav"
    flac = "flac"


class Subtype(str, Enum):
    """Depths of results."""

    pcm_16 = "PCM_16"
    pcm_24 = "PCM_24"
    pcm_32 = "PCM_32"
    float = "FLOAT"


def version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        from unified_sess import __version__

        print(f"unified-sess {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Clean noisy recordings and separate their speakers."""


@app.command()
def separate(
    paths: Annotated[
        list[str], typer.Argument(help="Audio files, folders (searched through), globs, or - for standard input.")
    ],
    output_dir: Annotated[Path, typer.Option(help="Folder of the results: <name>_s1.wav, <name>_s2.wav, ...")],
    model: Annotated[
        str | None,
        typer.Option(help="Exported folder, .onnx file, results folder or hub id; without it our own model."),
    ] = None,
    num_spks: Annotated[
        int | None, typer.Option(help="People to write, those of most energy; without it those who are heard.")
    ] = None,
    enhanced: Annotated[
        bool, typer.Option("--enhanced", help="Also write <name>_enhanced: all speakers, cleaned.")
    ] = False,
    noise: Annotated[
        bool, typer.Option("--noise", help="Also write <name>_noise: what the people leave of the recording.")
    ] = False,
    rttm: Annotated[bool, typer.Option("--rttm", help="Also write <name>.rttm: who speaks when.")] = False,
    extension: Annotated[Extension, typer.Option("--format", help="Format of the results.")] = Extension.wav,
    subtype: Annotated[
        Subtype | None,
        typer.Option(
            case_sensitive=False, help="Depth of the results; without it the input's, 24 bits of a lossy one."
        ),
    ] = None,
    normalize: Annotated[
        float | None,
        typer.Option(help="Bring people to this loudness in LUFS, such as -23; without it none is changed."),
    ] = None,
    model_rate: Annotated[
        bool, typer.Option("--model-rate", help="Write at the model's rate, not the input's.")
    ] = False,
    channel: Annotated[
        str | None,
        typer.Option(help="Channel from 1, or mean; without it the mean, or the loudest if channels cancel."),
    ] = None,
    stream: Annotated[int | None, typer.Option(help="Audio stream of a film or meeting, from 1.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Separate again what has results, also those of other options.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON a recording.")] = False,
    shard: Annotated[
        str | None, typer.Option(help="Take only share K of N, as in 3/8; the same recordings each time.")
    ] = None,
    device: Device = None,
    runtime: Annotated[
        RuntimeName | None,
        typer.Option(help="onnx runs the model's ONNX file without torch; without it torch where it is installed."),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Recordings at a time.")] = 1,
    window: Annotated[
        float, typer.Option(help="Seconds of a window; recordings longer than 1.25 windows are cut into windows.")
    ] = 16.0,
    overlap: Annotated[float, typer.Option(help="Seconds that windows overlap by.")] = 4.0,
    batch_size: Annotated[int, typer.Option(help="Windows that go through the network together.")] = 4,
    effort: Annotated[
        int | None,
        typer.Option(help="Runs of a separator that works in steps: 1 is fastest; without it all, which is best."),
    ] = None,
    passes: Annotated[
        int,
        typer.Option(help="Separate everything 1 to 5 times, each at another speed, and average: better, but slower."),
    ] = 1,
    fixed_order: Annotated[
        bool, typer.Option("--fixed-order", help="Keep the network's order of speakers instead of tracking voices.")
    ] = False,
    voices: Voices = None,
) -> None:
    """Separate the speakers of recordings.

    Of any rate, channel count and length. Folders keep their tree; results are as long and as loud as the recording;
    those that exist of the same recording, model and options are skipped. Silent outputs are left out.

    \b
    unified-sess separate meeting.m4a --output-dir separated --rttm --noise
    unified-sess separate recordings "more/*.mp3" --output-dir separated --enhanced --format flac
    unified-sess separate --model my-model --output-dir separated -- -odd-name.wav
    unified-sess separate - --output-dir separated --json
    """
    from unified_sess.inference.files.separate_files import Options, separate_files
    from unified_sess.inference.runtime import TORCH, Runtime, chosen_runtime
    from unified_sess.inference.windows import Windows

    options = Options(
        enhanced=enhanced,
        extension=extension.value,
        model_rate=model_rate,
        overwrite=overwrite,
        fixed_order=fixed_order,
        windows=Windows(window, overlap, batch_size),
        noise=noise,
        rttm=rttm,
        normalize=normalize,
        num_spks=num_spks,
        channel=checked_channel(channel),
        stream=stream,
        subtype=None if subtype is None else subtype.value,
        effort=effort,
        passes=passes,
        voices=loaded_voices(voices),
    )
    share = checked_shard(shard)
    keep_freed_memory()
    if chosen_runtime(model, None if runtime is None else runtime.value, device) == TORCH:
        from unified_sess.inference.separating import Separator

        network: Runtime = Separator.load(model, checked_device(device))
    else:
        from unified_sess.inference.onnx_separator import OnnxSeparator

        network = OnnxSeparator.load(model)
    separate_files(network, paths, output_dir, options, jobs, share, sys.stdout if json else None)


@app.command("app")
def app_command(
    model: Annotated[
        list[str] | None,
        typer.Option(help="Exported folder, results folder or hub id; several to choose from, without it our own."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets others in.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Without it the first free one from 7860; 0 is any.")] = None,
    max_size: Annotated[float, typer.Option(help="Largest upload in MB.")] = 1000.0,
    device: Device = None,
    voices: Voices = None,
) -> None:
    """Serve a page to separate recordings in the browser.

    From this machine and for it alone, unless --host says otherwise; nothing goes to the network. Ctrl-C ends it and
    deletes uploads and results.

    \b
    unified-sess app
    unified-sess app --model my-model --model results/unified/1234 --port 8000
    """
    from unified_sess.app.server import serve

    keep_freed_memory()
    serve(model or [], host, port, max_size, checked_device(device), loaded_voices(voices))


@app.command()
def join_summaries(
    files: Annotated[list[Path], typer.Argument(help="Files with the lines of separate --json.")],
    output: Annotated[Path | None, typer.Option(help="File of all their lines.")] = None,
) -> None:
    """Join the summaries of a job array.

    Prints how many recordings, hours and people there are, and what failed.

    \b
    unified-sess join-summaries summary-1.jsonl summary-2.jsonl --output summary.jsonl
    """
    from unified_sess.inference.files.summaries import join_summaries as join

    lines, failed = join(files, output)
    print("\n".join(lines))
    raise typer.Exit(1 if failed else 0)


@app.command()
def export(
    results: Annotated[Path, typer.Argument(help="Output folder of a training, or a model folder.")],
    folder: Annotated[Path, typer.Argument(help="Model folder to make, or one .onnx file, which runs without torch.")],
    half: Annotated[bool, typer.Option("--half", help="16-bit weights: half the size, the same sound.")] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="Only what executes nothing: no files for SpeechBrain.")
    ] = False,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Also model.onnx, which runs without torch; for networks on a spectrogram.")
    ] = False,
) -> None:
    """Make a model folder of a training's best checkpoint.

    The folder loads with UnifiedSeparation and with SpeechBrain, and is ready for the hub.

    \b
    unified-sess export results/unified/1234 my-model
    unified-sess export results/unified/1234 small-model --half --plain
    unified-sess export my-model my-model/model.onnx --half
    """
    from unified_sess.model_io.export import export as write_model

    print(f"exported to {write_model(results, folder, half, plain, onnx)}")


@app.command()
def evaluate(
    data_folder: Annotated[
        Path, typer.Option(help="LibriMix, WHAM!, WHAMR! or conversations; the test part is measured.")
    ],
    model: Model = None,
    output_dir: Annotated[Path, typer.Option(help="Folder of test_results.csv and the report.")] = Path("evaluation"),
    mode: Annotated[str | None, typer.Option(help="min or max; without it the one that is there, min first.")] = None,
    metrics: Annotated[str, typer.Option(help="si_snr,sdr,stoi,estoi,pesq,dnsmos or all that are installed.")] = "all",
    speakers: Annotated[Path | None, typer.Option(help="LibriSpeech's SPEAKERS.TXT, for a table by gender.")] = None,
    audio_examples: Annotated[int, typer.Option(min=0, help="Mixtures to write as sound files.")] = 3,
    limit: Annotated[int | None, typer.Option(min=1, help="Measure only so many mixtures.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Worker processes for the measures.")] = None,
    passes: Annotated[int, typer.Option(help="As of separate: 1 to 5, more are better but slower.")] = 1,
    device: Device = None,
    voices: Voices = None,
) -> None:
    """Measure a model on the test part of a corpus.

    A set of conversations has measures of its own: whole tracks, voices on their tracks, who speaks when, how many.

    \b
    unified-sess evaluate --model my-model --data-folder Libri2Mix --output-dir measured
    """
    from unified_sess.evaluation.evaluate import evaluate_command, summary_lines

    keep_freed_memory()
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
        passes=passes,
        voices=loaded_voices(voices),
    )
    print("\n".join(summary_lines(results, output_dir)))


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Results folders, the baseline first.")],
    output: Annotated[Path | None, typer.Option(help="Folder of the comparison.")] = None,
) -> None:
    """Compare test results of models on the same mixtures.

    \b
    unified-sess compare results/baseline/1234 results/unified/1234
    """
    from unified_sess.evaluation.compare import run_compare

    run_compare(folders, output)


@app.command()
def check_data(folder: Annotated[Path, typer.Argument(help="Corpus or folder of audio.")]) -> None:
    """Look for faults in a corpus.

    Unreadable, silent or misaligned files, speakers in two splits.

    \b
    unified-sess check-data Libri2Mix
    """
    from unified_sess.data.check import run_check

    raise typer.Exit(run_check(folder))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def show_network(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="A file of hparams/networks or an experiment.")],
) -> None:
    """Print the size and cost of a network.

    Parameters, work, receptive field and memory of what a file builds; --NAME VALUE replaces one of its settings.

    \b
    unified-sess show-network hparams/networks/sepformer.yaml --num_spks 3
    """
    from unified_sess.model_io.show_network import show_network as show
    from unified_sess.training.command_line import parse_settings

    show(path, parse_settings(context.args))


if not has_torch():  # the small package, see packaging/runtime
    app.registered_commands = [c for c in app.registered_commands if c.callback in (separate, join_summaries)]
    app.info.help = "Clean noisy recordings and separate their speakers, without torch; the whole package does more."


def checked_device(name: str | None) -> str | None:
    """The device's name; `UserError` where there is none of that name."""
    if name is None:
        return None
    import torch

    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError, ValueError, NotImplementedError):
        raise UserError(f"there is no device {name!r} here: give --device cpu, or leave it out") from None
    return name


def loaded_voices(source: str | None) -> "SpeakerNetwork | None":
    """The network of speakers; `UserError` where there is none of that name, or another one."""
    if source is None:
        return None
    from unified_sess.inference.voices.speakers import SpeakerNetwork

    return SpeakerNetwork.load(source)


def checked_channel(text: str | None) -> "Channel":
    """A channel's number or `mean`; `UserError` for anything else."""
    if text is None:
        return None
    if text == "mean":
        return "mean"
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--channel {text}: give a number from 1, or mean")
    return int(text)


def checked_shard(text: str | None) -> tuple[int, int] | None:
    """Share K of N from `K/N`; `UserError` for anything else."""
    if text is None:
        return None
    first, slash, last = text.partition("/")
    if not slash or not first.isdecimal() or not last.isdecimal() or not 1 <= int(first) <= int(last):
        raise UserError(f"--shard {text}: give K/N with K from 1 to N, as in 3/8")
    return int(first), int(last)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; errors that a user can cause are one line and an exit status of 1, wrong usage has 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    with one_line_errors("unified-sess"):
        try:
            status = app(args=arguments or ["--help"], prog_name="unified-sess", standalone_mode=False)
        except UsageError as error:
            command = error.ctx.command_path if error.ctx is not None else "unified-sess"
            print(f"unified-sess: error: {error.format_message().rstrip('.')} (see {command} --help)", file=sys.stderr)
            raise SystemExit(2) from None
        if status == INTERRUPTED:
            raise KeyboardInterrupt
    if isinstance(status, int) and status:
        raise SystemExit(status)


if __name__ == "__main__":
    main()
