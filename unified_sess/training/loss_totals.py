"""Means of the losses over a stage: sums that stay on the device, and utterances that have no number."""

import torch

from unified_sess.data.batches import Batch
from unified_sess.losses import SILENCE_DB, si_snr_improvement
from unified_sess.training.distributed import gather_from_ranks, sum_over_ranks
from unified_sess.training.utterance_losses import UtteranceLosses


class LossTotals:
    """Sums of the losses of a stage, kept on the device until they are read."""

    NAMES = ("loss_ss", "loss_se", "si_snri", "loss_count", "si_snri_count")

    def __init__(self, state: list | None = None) -> None:
        self.sums = torch.tensor([0.0] * len(self.NAMES) if state is None else state, dtype=torch.float64)

    def add(self, losses: UtteranceLosses, improvement: torch.Tensor | None = None) -> torch.Tensor:
        """Add the utterances whose losses are finite; returns which these are, `[batch]`.

        `improvement` `[batch]` is their SI-SNRi in dB, NaN where it is not defined.
        """
        ss = losses.separation.detach().double()
        se = torch.zeros_like(ss) if losses.enhancement is None else losses.enhancement.detach().double()
        gain = torch.full_like(ss, torch.nan) if improvement is None else improvement.to(ss)
        finite, measured = ss.isfinite() & se.isfinite(), gain.isfinite()
        rows = torch.stack([ss, se, gain.nan_to_num(), torch.ones_like(ss), measured.to(ss)])
        self.sums = self.sums.to(ss.device) + torch.where(finite, rows, 0).sum(1)
        return finite

    def reduce(self) -> None:
        """Move the sums of all ranks to rank 0, so that they are counted once however often this is called."""
        self.sums = sum_over_ranks(self.sums, on_all=False)

    def means(self) -> dict:
        """Means over the utterances of this process as floats; SI-SNRi only where it was added."""
        loss_ss, loss_se, si_snri, count, gain_count = self.sums.tolist()
        means = {"loss_ss": loss_ss / max(count, 1), "loss_se": loss_se / max(count, 1)}
        if gain_count:
            means["si_snri"] = si_snri / gain_count
        return means

    def state(self) -> list:
        """The sums as a list, to be saved."""
        return self.sums.tolist()


class Validation:
    """The validation part as all ranks together see it.

    An utterance with a silent reference has no SI-SNR: where that trains, it is left out by name. Where the network
    gives NaN or infinity for any other utterance, the whole epoch has no number.

    Arguments
    ---------
    silence_defined : bool
        Whether the separation loss is defined for a silent reference.
    """

    def __init__(self, silence_defined: bool = False) -> None:
        self.silence_defined = silence_defined
        self.totals = LossTotals()
        self.ids: list[str] = []
        self.flags: list[torch.Tensor] = []

    def add(self, batch: Batch, losses: UtteranceLosses) -> None:
        """Add the utterances of a batch; never waits for the device."""
        undefined = torch.zeros(len(batch.ids), dtype=torch.bool, device=losses.separation.device)
        if not self.silence_defined:
            undefined = _silent_reference(batch).to(undefined.device)
            losses = losses._replace(separation=losses.separation.masked_fill(undefined, torch.nan))
        finite = self.totals.add(losses, _improvement(losses.sources, batch))
        self.ids += batch.ids
        self.flags.append(torch.stack([undefined, ~finite & ~undefined]))

    def end(self) -> tuple[dict, list, list]:
        """Read the numbers, the same on all ranks.

        Returns
        -------
        means : dict
            loss_ss, loss_se and si_snri in dB; all NaN where the network failed or nothing was defined.
        undefined : list of str
            Utterances with a silent reference, which were left out.
        failed : list of str
            Utterances for which the network gave NaN or infinity.
        """
        self.totals.sums = sum_over_ranks(self.totals.sums)
        flags = torch.cat(self.flags, dim=1).tolist() if self.flags else ([], [])
        undefined, failed = ([name for name, yes in zip(self.ids, part) if yes] for part in flags)
        undefined, failed = (gather_from_ranks(names) for names in (undefined, failed))
        means = self.totals.means()
        if failed or "si_snri" not in means:
            means = dict.fromkeys(("loss_ss", "loss_se", "si_snri"), float("nan"))
        return means, undefined, failed


def _silent_reference(batch):
    """Whether any source of an utterance is silent, `[batch]`: far below its mixture, as in `si_snr_improvement`."""
    power = batch.sources.square().sum(1)
    return (power <= 10 ** (SILENCE_DB / 10) * batch.mixture.square().sum(1, keepdim=True)).any(1)


def _improvement(estimates, batch):
    """SI-SNR improvement in dB of each utterance, `[batch]`; NaN where nobody speaks."""
    values = []
    for row, length in enumerate(batch.lengths.tolist()):
        signals = (x[row : row + 1, :length].to(estimates.device) for x in (batch.sources, batch.mixture))
        values.append(si_snr_improvement(estimates[row : row + 1, :length].float(), *signals))
    return torch.cat(values)


def counted(names: list[str]) -> str:
    """The number of utterances and the first three names, for a message.

    Example
    -------
    >>> counted(["a", "b", "c", "d"])
    '4 utterances (a, b, c, ...)'
    """
    more = ", ..." if len(names) > 3 else ""
    return f"{len(names)} utterances ({', '.join(names[:3])}{more})"
