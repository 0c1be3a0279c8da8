"""What a person sees of the training: one bar for all epochs, and a line after each."""

import math
from typing import Any

import speechbrain as sb
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.epoch_loop import EpochCounter
from tqdm import tqdm

MEMORY = 0.9  # how much of the shown loss stays at a step


class OneBarBrain(sb.Brain):
    """SpeechBrain's Brain with one progress bar for all epochs, instead of two for each.

    Who inherits calls `start_bar` once it knows where the run goes on, `advance_bar` after each batch and
    `say_epoch` after each epoch. Without `fit`, or with `--noprogressbar`, nothing is shown.
    """

    bar: tqdm | None = None
    shown_loss = math.nan

    def fit(
        self,
        epoch_counter: EpochCounter,
        train_set: Any,
        valid_set: Any = None,
        progressbar: bool | None = None,
        **loader_kwargs: Any,
    ) -> None:
        """Train as SpeechBrain does."""
        self.with_bar = (not self.noprogressbar if progressbar is None else progressbar) and if_main_process()
        try:
            super().fit(epoch_counter, train_set, valid_set, progressbar=False, **loader_kwargs)
        finally:
            if self.bar is not None:
                self.bar.close()

    def start_bar(self, counter: EpochCounter, steps: int) -> None:
        """Say what comes and open the bar: epochs of so many batches each, of which earlier runs have trained on some."""
        epochs = counter.limit
        if self.debug:
            epochs, steps = min(epochs, self.debug_epochs), min(steps, self.debug_batches)
        if self.with_bar and counter.current < epochs:
            count = sum(p.numel() for p in self.modules.parameters())
            times = "1 epoch" if epochs == 1 else f"{epochs} epochs"
            print(
                f"Training {count:,} parameters for {times} of {steps} steps. The bar tells after some steps how long "
                "it takes; the same command goes on where it was stopped.",
                flush=True,
            )
            done = counter.current * steps + self.step
            self.counter, self.epochs = counter, epochs
            self.bar = tqdm(total=epochs * steps, initial=done, desc="Training", dynamic_ncols=True)

    def advance_bar(self, loss: float) -> None:
        """Count a batch; a loss of NaN, as inside an accumulation window, leaves the shown one as it is."""
        if self.bar is None:
            return
        if math.isfinite(loss):
            self.shown_loss = loss if math.isnan(self.shown_loss) else self.shown_loss * MEMORY + loss * (1 - MEMORY)
        self.bar.set_postfix_str(
            f"epoch {self.counter.current} of {self.epochs}, loss {self.shown_loss:.2f}", refresh=False
        )
        self.bar.update()

    def say_epoch(self, epoch: int, numbers: dict[str, float]) -> None:
        """A line above the bar: SI-SNRi on the validation part, conflict rate of the gradients, learning rate."""
        if self.bar is None:
            return
        said = [f"Epoch {epoch} of {self.epochs}: {numbers['si_snri']:.2f} dB SI-SNRi on the validation part"]
        if "conflict_rate" in numbers:
            said.append(f"conflict rate {100 * numbers['conflict_rate']:.0f} %")
        self.bar.write(", ".join([*said, f"learning rate {numbers['lr']:.2g}"]))
