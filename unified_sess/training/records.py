"""What an epoch leaves for the eyes: TensorBoard's curves, the table and plots of the two gradients."""

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from unified_sess.training.conflict_null_plot import draw_conflict_null
from unified_sess.training.gradient_plots import draw_gradient_plots
from unified_sess.training.gradient_table import write_gradient_table


class Records:
    """Writes the records of a run; of the main process alone.

    Arguments
    ---------
    folder : str or Path
        `output_folder` of the run; gets `tensorboard` and `gradients`.
    tensorboard : bool
        Whether TensorBoard's files are written.
    """

    def __init__(self, folder: str | Path, tensorboard: bool) -> None:
        self.folder, self.tensorboard = Path(folder), tensorboard
        self.writer: SummaryWriter | None = None

    def write(self, numbers: dict, gradients: list | None, epoch: int, null: list | None = None) -> None:
        """Write an epoch.

        Arguments
        ---------
        numbers : dict of str to dict
            `{"train": {name: value, ...}, ...}`.
        gradients : list of dict
            Rows of `GradientModulation.table()`; None where there was one task alone, or no step in the whole epoch.
        epoch : int
        null : list of dict
            Rows of `ConflictNull.table()`; empty or None where it was not measured.
        """
        if self.tensorboard and self.writer is None:
            # What a killed run wrote of this epoch is hidden, so that curves have no double points.
            self.writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=epoch)
        if self.writer is not None:
            for part, values in numbers.items():
                for name, value in values.items():
                    self.writer.add_scalar(f"{part}/{name}", value, epoch)
            self.writer.flush()
        folder = self.folder / "gradients"
        if null:
            table = write_gradient_table(null, epoch, folder / "conflict_null.csv")
            draw_conflict_null(table, folder / "conflict_null.png", self.writer)
        if gradients is not None:
            table = write_gradient_table(gradients, epoch, folder / "gradients.csv")
            draw_gradient_plots(table, folder, tensorboard=self.writer, epoch=epoch)
