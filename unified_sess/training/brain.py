"""Training of the unified network: two gradients a step, merged by gradient modulation."""

import json
from contextlib import nullcontext
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.nnet.schedulers import ReduceLROnPlateau
from speechbrain.utils.checkpoints import mark_as_loader, mark_as_saver, register_checkpoint_hooks
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger
from torch.utils.tensorboard import SummaryWriter

from unified_sess.data.batches import Batch, EpochSampler, collate
from unified_sess.losses import si_snr_improvement
from unified_sess.network import MODULE_NAMES, UnifiedNetwork
from unified_sess.training.averaging import WeightAverage
from unified_sess.training.cuda_graphs import Replay
from unified_sess.training.distributed import broadcast_parameters
from unified_sess.training.gradient_plots import draw_gradient_plots
from unified_sess.training.gradient_table import write_gradient_table
from unified_sess.training.joint_step import JointStep
from unified_sess.training.utterance_losses import LossChoice, utterance_losses
from unified_sess.utils.errors import UserError

logger = get_logger(__name__)


@register_checkpoint_hooks
class UnifiedBrain(sb.Brain):
    """SpeechBrain's Brain with one forward pass and two gradients a step.

    The SE gradient is taken on the shared parameters, the SS gradient on all; both accumulate over
    `grad_accumulation_factor` batches and over ranks, are modulated once, clipped and applied. Who un-scales under
    fp16: gradients stay scaled through accumulation and modulation, and `optimizers_step` un-scales the merged
    gradient once.

    Modules are not wrapped in DistributedDataParallel, which would average only the first of two backward passes;
    `JointStep` averages both gradients itself.
    """

    def __init__(self, modules, opt_class, hparams, run_opts=None, checkpointer=None):
        super().__init__(modules, opt_class, hparams, run_opts, checkpointer)
        if self.optimizer_step_limit is not None:
            self.optimizer_step_limit = int(self.optimizer_step_limit)
        self.rank = getattr(self, "rank", 0)
        self.world_size = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        _check_modules("freeze", self.hparams.freeze, list, "[encoder, decoder]")
        _check_modules("lr_factors", self.hparams.lr_factors, dict, "{masknet: 0.1}")
        for name in self.hparams.freeze:
            self.modules[name].requires_grad_(False)
        self.modulation = self.hparams.modulation
        self.joint_step = JointStep(
            self.modules,
            self.modulation,
            self.hparams.enhancement_weight,
            self.hparams.threshold,
            self.hparams.gradient_statistics,
        )
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable(
                "gradient_statistics", self.modulation, _load_statistics, _save_statistics, optional_load=True
            )
        self.average = self._make_average()
        self.loss_choice = self._choose_losses()
        self.replay = self._make_replay()
        self.totals = _Totals()
        self.tensorboard = None

    def _make_average(self):
        """The average of the weights, or None where `ema_decay` does not ask for one."""
        decay = getattr(self.hparams, "ema_decay", None)
        if decay is None:
            return None
        average = WeightAverage(self.modules, decay)
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("average", average, optional_load=True)
        return average

    def init_optimizers(self):
        """One parameter group a module, so that `lr_factors` can give it a learning rate of its own."""
        groups = []
        for name, module in self.modules.items():
            parameters = [p for p in module.parameters() if p.requires_grad]
            factor = float(self.hparams.lr_factors.get(name, 1.0))
            if parameters:
                groups.append({"params": parameters, "lr_factor": factor, "lr": self.hparams.lr * factor})
        if not groups:
            raise UserError("every module is frozen, so there is nothing to train: shorten freeze")
        self.optimizer = self.opt_class(groups)
        self.optimizer.register_load_state_dict_pre_hook(_fused_as_made)
        self.optimizers_dict = {"opt_class": self.optimizer}
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("optimizer", self.optimizer)

    # Data

    def make_dataloader(self, dataset, stage, ckpt_prefix="dataloader-", **loader_kwargs):
        """A loader whose order and contents are a function of (seed, epoch), for any number of workers and ranks."""
        train = stage == sb.Stage.TRAIN
        max_len = self.hparams.training_signal_len if train else None
        sampler = EpochSampler(
            dataset.frames,
            loader_kwargs.pop("batch_size", 1),
            seed=self.hparams.seed,
            max_frames=None if max_len is None else round(max_len * self.hparams.sample_rate),
            shuffle=train,
            rank=self.rank if train else 0,
            world_size=self.world_size if train else 1,
        )
        if train:
            self.train_sampler = sampler
        workers = loader_kwargs.get("num_workers", 0)
        return torch.utils.data.DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=collate,
            # Iterating a loader draws a number from its generator: not from the one that dropout uses.
            generator=torch.Generator(),
            persistent_workers=workers > 0,
            pin_memory=self.device_type == "cuda",
            **loader_kwargs,
        )

    # A step

    def _choose_losses(self):
        """The losses of the experiment; an experiment file that does not name them has the paper's."""
        hparams, names = self.hparams, LossChoice._field_defaults
        enhancement = getattr(hparams, "enhancement_loss", names["enhancement"])
        return LossChoice(
            getattr(hparams, "separation_loss", names["separation"]),
            enhancement if self.joint_step.with_enhancement else None,
            getattr(hparams, "snr_limit", names["limit"]),
            hparams.detach_clean_features,
            getattr(hparams, "step_weight", names["step_weight"]),
        ).check()

    def _make_replay(self):
        """What records and replays the steps of a GPU; None where each kernel is launched."""
        if not getattr(self.hparams, "cuda_graphs", False):
            return None
        if self.hparams.training_signal_len is None:
            raise UserError("cuda_graphs wants mixtures of one length: give training_signal_len, such as 4 (seconds)")
        return Replay(self._compute_gradients_of_whole) if self.device_type == "cuda" else None

    def compute_forward(self, batch, stage):
        """Both losses of every utterance and the estimates; see `utterance_losses`."""
        return utterance_losses(self.modules, batch.to(self.device, non_blocking=True), self.loss_choice)

    def compute_objectives(self, predictions, batch, stage):
        """Mean total loss L_SS + lambda * L_SE of the utterances, for the log."""
        total = predictions.separation
        if predictions.enhancement is not None:
            total = total + self.hparams.enhancement_weight * predictions.enhancement
        return total.mean()

    def fit_batch(self, batch):
        """Accumulate both gradients of a batch, and step at the end of the accumulation window."""
        should_step = self.step % self.grad_accumulation_factor == 0
        self.on_fit_batch_start(batch, should_step)
        losses, loss, gradients = None, torch.zeros(()), None
        if batch is not None:
            losses, loss, gradients = self._losses_and_gradients(batch)
        self.joint_step.add(gradients)
        if losses is not None:
            self.totals.add(losses)
        if should_step:
            self.optimizers_step()
        self.on_fit_batch_end(batch, losses, loss, should_step)
        return loss.cpu()

    def _losses_and_gradients(self, batch):
        """Losses of a batch, their mean total and the `BatchGradients`."""
        scale = self._loss_scale()
        # What depends on lengths cannot be recorded.
        if self.replay is None or (batch.lengths != batch.mixture.shape[1]).any():
            return self._compute_gradients(batch, scale)
        batch = batch.to(self.device, non_blocking=True)
        tensors = [x for x in (batch.mixture, batch.clean, batch.sources, scale) if x is not None]
        losses, loss, gradients = self.replay(*tensors)
        # The next batch writes over them.
        return losses, loss, gradients.clone() if self.grad_accumulation_factor > 1 else gradients

    def _compute_gradients(self, batch, scale):
        with self.training_ctx:
            losses = self.compute_forward(batch, sb.Stage.TRAIN)
            loss = self.compute_objectives(losses, batch, sb.Stage.TRAIN).detach()
        return losses, loss, self.joint_step.gradients(losses, scale)

    def _compute_gradients_of_whole(self, mixture, clean, sources, scale=None):
        lengths = torch.full(mixture.shape[:1], mixture.shape[1])
        losses, loss, gradients = self._compute_gradients(Batch([], mixture, clean, sources, lengths), scale)
        return losses.detach(), loss, gradients

    def _loss_scale(self):
        return self.scaler.scale(torch.ones((), device=self.device)) if self.scaler.is_enabled() else None

    def optimizers_step(self):
        """Merge the two gradients, un-scale once, clip, step; without a kept utterance or a finite gradient, no step."""
        count, finite = self.joint_step.merge(self._loss_scale())
        kept, finite = torch.stack([count.double(), finite.double()]).tolist()  # the one wait for the device
        step = kept > 0 and (bool(finite) or self.scaler.is_enabled())
        if step:
            if self.scaler.is_enabled():
                self.scaler.unscale_(self.optimizer)
            if self.max_grad_norm > 0:
                torch.nn.utils.clip_grad_norm_(self.joint_step.parameters, self.max_grad_norm)
            self.scaler.step(self.optimizer)  # skips by itself where fp16 overflowed
            self.scaler.update()
            self.optimizer_step += 1
            if self.average is not None:
                self.average.update()
        self.optimizer.zero_grad(set_to_none=True)
        if not finite and not self.scaler.is_enabled():
            self._nonfinite_step()

    def _nonfinite_step(self):
        self.nonfinite_count += 1
        logger.warning(f"Skipped a step: its gradient is not finite ({self.nonfinite_count} in this epoch)")
        if not self.skip_nonfinite_grads and self.nonfinite_count > self.nonfinite_patience:
            raise UserError(
                f"{self.nonfinite_count} steps of epoch {self.hparams.epoch_counter.current} had a gradient that is "
                "not finite: lower lr, check the data (unified-sess check-data), or give --skip_nonfinite_grads"
            )

    def _wrap_distributed(self):
        if self.data_parallel_backend:
            raise UserError(
                "--data_parallel_backend is not supported: start with torchrun --nproc_per_node=N train.py ..."
            )
        broadcast_parameters(self.modules)

    def _should_save_intra_epoch_ckpt(self, last_ckpt_time, steps_since_ckpt):
        # Never inside an accumulation window: half a window cannot be saved. A checkpoint that comes due there waits.
        due = super()._should_save_intra_epoch_ckpt(last_ckpt_time, steps_since_ckpt)
        self._checkpoint_due = due or getattr(self, "_checkpoint_due", False)
        if self._checkpoint_due and not self.joint_step.pending:
            self._checkpoint_due = False
            return True
        return False

    def _save_intra_epoch_ckpt(self):
        with nullcontext() if self.average is None else self.average.in_use():
            super()._save_intra_epoch_ckpt()

    # Stages

    def on_fit_start(self):
        """Start or resume: recover the last checkpoint and the place in the epoch."""
        super().on_fit_start()
        if self.average is not None:
            self.average.start()
        if self.step:
            self.train_sampler.start = self.step
        if self._optimizer_step_limit_exceeded:  # a finished run does not train again
            self.hparams.epoch_counter.current = self.hparams.epoch_counter.limit

    def on_stage_start(self, stage, epoch=None):
        """Start the statistics of a stage."""
        if self.average is not None:
            self.average.use(stage != sb.Stage.TRAIN)
        if stage == sb.Stage.TRAIN and self.step:
            return  # resumed inside the epoch: its statistics were recovered
        self.totals = _Totals()
        if stage == sb.Stage.TRAIN:
            self.modulation.reset()

    def evaluate_batch(self, batch, stage):
        """Losses and SI-SNR improvement of a validation batch."""
        with torch.no_grad(), self.evaluation_ctx:
            losses = self.compute_forward(batch, stage)
            loss = self.compute_objectives(losses, batch, stage)
        self.totals.add(losses, _improvement(losses.sources, batch))
        return loss.cpu()

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log; after validation also set the learning rate, draw the gradients and save a checkpoint."""
        if stage == sb.Stage.TRAIN:
            if self.joint_step.pending:
                if not self._optimizer_step_limit_exceeded:
                    self.optimizers_step()  # the epoch ended inside an accumulation window
                self.joint_step.reset()
            self._checkpoint_due = False
            statistics = self.modulation.statistics() if self.joint_step.with_enhancement else {}
            self.train_stats = self.totals.means() | {k: v for k, v in statistics.items() if v is not None}
        elif stage == sb.Stage.VALID:
            self._end_epoch(self.totals.means(), epoch)

    def _end_epoch(self, valid_stats, epoch):
        lr = self.optimizer.param_groups[0]["lr"] / self.optimizer.param_groups[0]["lr_factor"]
        self._set_learning_rate(valid_stats, epoch)
        stats = {"epoch": epoch, "lr": lr, "optimizer_steps": self.optimizer_step}
        self.hparams.train_logger.log_stats(stats, self.train_stats, valid_stats)  # on all ranks: it is a collective
        if if_main_process():
            self._write_tensorboard(stats, valid_stats, epoch)
            self._draw_gradients(epoch)
        if self.checkpointer is not None:
            self.checkpointer.save_and_keep_only(
                meta={"si_snri": valid_stats["si_snri"], "epoch": epoch},
                max_keys=["si_snri"],
                num_to_keep=1,
            )

    def _set_learning_rate(self, valid_stats, epoch):
        scheduler = getattr(self.hparams, "lr_scheduler", None)
        if scheduler is None:
            return
        if isinstance(scheduler, ReduceLROnPlateau):
            _, lr = scheduler([self.optimizer], epoch, valid_stats["loss_ss"])
            lr /= self.optimizer.param_groups[0]["lr_factor"]  # the scheduler read the first group's
        else:
            _, lr = scheduler(epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_factor"]

    def _write_tensorboard(self, stats, valid_stats, epoch):
        if not self.hparams.tensorboard:
            return
        if self.tensorboard is None:
            folder = Path(self.hparams.output_folder) / "tensorboard"
            # What a killed run wrote of this epoch is hidden, so that curves have no double points.
            self.tensorboard = SummaryWriter(str(folder), purge_step=epoch)
        values = {"meta": stats, "train": self.train_stats, "valid": valid_stats}
        for part, numbers in values.items():
            for name, value in numbers.items():
                self.tensorboard.add_scalar(f"{part}/{name}", value, epoch)
        self.tensorboard.flush()

    def _draw_gradients(self, epoch):
        if "conflict_rate" not in self.train_stats:  # one task alone, or no step in the whole epoch
            return
        folder = Path(self.hparams.output_folder) / "gradients"
        table = write_gradient_table(self.modulation.table(), epoch, folder / "gradients.csv")
        draw_gradient_plots(table, folder, tensorboard=self.tensorboard, epoch=epoch)

    # Test

    def on_evaluate_start(self, max_key=None, min_key=None):
        """Load the best checkpoint."""
        if self.checkpointer is None:
            return
        if self.checkpointer.recover_if_possible(max_key=max_key, min_key=min_key) is None:
            raise UserError(
                f"no checkpoint in {self.checkpointer.checkpoints_dir}: train first, or give the --output_folder of a run"
            )

    def network(self):
        """The trained network with `separate_batch` and `enhance_batch`, in evaluation mode."""
        return UnifiedNetwork(self.modules).eval()

    @mark_as_saver
    def _save(self, path):
        state = {
            "step": self.step,
            "avg_train_loss": float(self.avg_train_loss),
            "optimizer_step": self.optimizer_step,
            "totals": self.totals.state(),
        }
        Path(path).write_text(json.dumps(state), encoding="utf-8")

    @mark_as_loader
    def _recover(self, path, end_of_epoch):
        state = json.loads(Path(path).read_text(encoding="utf-8"))
        self.optimizer_step = state["optimizer_step"]
        if end_of_epoch:
            self.step, self.avg_train_loss = 0, 0.0
            return
        self.step, self.avg_train_loss = state["step"], state["avg_train_loss"]
        self.totals = _Totals(state["totals"])


class _Totals:
    """Sums of the losses of a stage, kept on the device until they are read."""

    NAMES = ("loss_ss", "loss_se", "si_snri", "loss_count", "si_snri_count")

    def __init__(self, state=None):
        self.sums = torch.tensor([0.0] * len(self.NAMES) if state is None else state, dtype=torch.float64)

    def add(self, losses, improvement=None):
        """Add utterances; `improvement` `[batch]` is their SI-SNRi in dB, NaN where it is not defined."""
        ss = losses.separation.detach().double()
        se = torch.zeros_like(ss) if losses.enhancement is None else losses.enhancement.detach().double()
        gain = torch.full_like(ss, torch.nan) if improvement is None else improvement.to(ss)
        finite, measured = ss.isfinite() & se.isfinite(), gain.isfinite()
        rows = torch.stack([ss, se, gain.nan_to_num(), torch.ones_like(ss), measured.to(ss)])
        self.sums = self.sums.to(ss.device) + torch.where(finite, rows, 0).sum(1)

    def means(self):
        """Means as floats; SI-SNRi only where it was added."""
        loss_ss, loss_se, si_snri, count, gain_count = self.sums.tolist()
        means = {"loss_ss": loss_ss / max(count, 1), "loss_se": loss_se / max(count, 1)}
        if gain_count:
            means["si_snri"] = si_snri / gain_count
        return means

    def state(self):
        """The sums as a list, to be saved."""
        return self.sums.tolist()


def _check_modules(setting, names, kind, example):
    if not isinstance(names, kind):
        raise UserError(f"{setting} must be written as {example}, not '{names}'")
    unknown = sorted(set(names) - set(MODULE_NAMES))
    if unknown:
        raise UserError(f"{setting} names '{unknown[0]}', which is no module: choose from {', '.join(MODULE_NAMES)}")
    for factor in names.values() if kind is dict else ():
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not factor >= 0:
            raise UserError(f"{setting} must have numbers from 0 on, as in {example}, not '{factor}'")


def _improvement(estimates, batch):
    """SI-SNR improvement in dB of each utterance, `[batch]`; NaN where nobody speaks."""
    values = []
    for row, length in enumerate(batch.lengths.tolist()):
        signals = (x[row : row + 1, :length].to(estimates.device) for x in (batch.sources, batch.mixture))
        values.append(si_snr_improvement(estimates[row : row + 1, :length].float(), *signals))
    return torch.cat(values)


def _fused_as_made(optimizer, state):
    """Whether a step is fused is for the experiment to say, not for the checkpoint: fp16's scaler counts on the former."""
    if "fused" not in optimizer.defaults:
        return state
    return state | {"param_groups": [g | {"fused": optimizer.defaults["fused"]} for g in state["param_groups"]]}


def _save_statistics(modulation, path):
    torch.save(modulation.state_dict(), path)


def _load_statistics(modulation, path, end_of_epoch):
    modulation.load_state_dict(torch.load(path, weights_only=True))
