"""Training of the unified network: two gradients a step, merged by gradient modulation."""

import json
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import speechbrain as sb
import torch
from speechbrain.utils.checkpoints import mark_as_loader, mark_as_saver, register_checkpoint_hooks
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger

from unified_sess.data.batches import Batch, EpochSampler, batch_loader
from unified_sess.data.dataset import MixtureDataset
from unified_sess.data.dynamic_mixing import DynamicMixingDataset
from unified_sess.gradient_modulation import RULES
from unified_sess.network import ENHANCED_FROM, UnifiedNetwork
from unified_sess.training.adam_steps import adam_factors, takes_adam_steps
from unified_sess.training.averaging import WeightAverage
from unified_sess.training.batch_passes import BatchPasses
from unified_sess.training.checkpoints import (
    AtomicCheckpointer,
    load_statistics,
    options_as_made,
    recover_best,
    save_statistics,
)
from unified_sess.training.conflict_null import ConflictNull
from unified_sess.training.cuda_graphs import Replay
from unified_sess.training.distributed import average_buffers, broadcast_parameters
from unified_sess.training.joint_step import JointStep
from unified_sess.training.learning_rate import LearningRate
from unified_sess.training.loss_totals import LossTotals, Validation, counted
from unified_sess.training.progress import OneBarBrain
from unified_sess.training.records import Records
from unified_sess.training.resuming import refuse_other_batches
from unified_sess.training.utterance_losses import LossChoice, UtteranceLosses, utterance_losses
from unified_sess.training.weight_learning import WeightLearning
from unified_sess.utils.errors import UserError

logger = get_logger(__name__)


@register_checkpoint_hooks
class UnifiedBrain(BatchPasses, OneBarBrain):
    """SpeechBrain's Brain with one forward pass and two gradients a step.

    The SE gradient is taken on the shared parameters, the SS gradient on all; both accumulate over
    `grad_accumulation_factor` batches and over ranks, are modulated once, clipped and applied. Who un-scales under
    fp16: gradients stay scaled through accumulation and modulation, and `optimizers_step` un-scales the merged
    gradient once.

    Modules are not wrapped in DistributedDataParallel, which would average only the first of two backward passes;
    `JointStep` averages both gradients itself.
    """

    def __init__(
        self,
        modules: Mapping[str, torch.nn.Module],
        opt_class: Callable[..., torch.optim.Optimizer],
        hparams: Mapping[str, Any],
        run_opts: Mapping[str, Any] | None = None,
        checkpointer: AtomicCheckpointer | None = None,
    ) -> None:
        super().__init__(modules, opt_class, hparams, run_opts, checkpointer)
        self.rank = getattr(self, "rank", 0)
        self.world_size = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        for name in self.hparams.freeze:
            self.modules[name].requires_grad_(False)
        self.network = self._make_network()
        self.modulation = self.hparams.modulation
        weight, threshold = self.hparams.enhancement_weight, self.hparams.threshold
        self.joint_step = JointStep(self.network, self.modulation, weight, threshold, self.hparams.gradient_statistics)
        self.losses_asked = self.loss_choice = LossChoice.of(self.hparams, self.joint_step.with_enhancement)
        self.weight_learning = WeightLearning(self.joint_step, self._losses_now, self.loss_choice.floors)
        every = getattr(self.hparams, "conflict_null_steps", 0)
        self.conflict_null = ConflictNull(self.joint_step, every, self._gradients_apart)
        if self.checkpointer is not None:
            kept = {"gradient_statistics": self.modulation, "conflict_null": self.conflict_null}
            for name, statistics in kept.items():
                self.checkpointer.add_recoverable(
                    name, statistics, load_statistics, save_statistics, optional_load=True
                )
        self.average = None
        if getattr(self.hparams, "ema_decay", None) is not None:
            self.average = WeightAverage(self.modules, self.hparams.ema_decay)
            if self.checkpointer is not None:
                self.checkpointer.add_recoverable("average", self.average, optional_load=True)
        self.replay = self._make_replay()
        schedule = getattr(self.hparams, "lr_scheduler", None), getattr(self.hparams, "warmup_steps", 0)
        self.learning_rate = LearningRate(self.hparams.lr, self.hparams.lr_factors, *schedule)
        self.totals = LossTotals()
        self.window_loss: list[torch.Tensor] = []  # losses of the batches of an accumulation window, on the device
        self.saved: dict[str, Any] = {}  # state of the checkpoint that the run goes on from
        self.records = None

    def init_optimizers(self) -> None:
        """One parameter group a module, so that `lr_factors` can give it a learning rate of its own.

        `UserError` where conflict is to be that of steps, and the optimizer's are not Adam's or the rule compares none.
        """
        self.optimizer = self.opt_class(self.learning_rate.groups(self.modules))
        if self._modulates_steps() and not takes_adam_steps(self.optimizer):
            raise UserError("modulated step knows the steps of Adam alone: give --muon False, or --modulated gradient")
        if self._modulates_steps() and (
            self.modulation.aggregator is not None or self.modulation.weighting is not None
        ):
            raise UserError(
                f"{self.modulation.rule} does not compare the steps of the two tasks: choose {', '.join(RULES)}, or "
                "--modulated gradient"
            )
        self.optimizer.register_load_state_dict_pre_hook(options_as_made)
        self.optimizers_dict = {"opt_class": self.optimizer}
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("optimizer", self.optimizer)

    def _modulates_steps(self):
        return getattr(self.hparams, "modulated", "gradient") == "step"

    def _compile(self):
        super()._compile()
        self.network = self._make_network()  # compiled modules are others

    def _make_network(self):
        return UnifiedNetwork(self.modules, getattr(self.hparams, "enhanced_from", ENHANCED_FROM[0]))

    # Data

    def make_dataloader(
        self,
        dataset: MixtureDataset | DynamicMixingDataset,
        stage: sb.Stage,
        ckpt_prefix: str = "dataloader-",
        **loader_kwargs: Any,
    ) -> torch.utils.data.DataLoader:
        """A loader whose order and contents are a function of (seed, epoch), for any number of workers.

        Each rank has its share of the batches, of training and of validation.
        """
        train = stage == sb.Stage.TRAIN
        max_len = self.hparams.training_signal_len if train else None
        sampler = EpochSampler(
            dataset.frames,
            loader_kwargs.pop("batch_size", 1),
            seed=self.hparams.seed,
            max_frames=None if max_len is None else round(max_len * self.hparams.sample_rate),
            shuffle=train,
            rank=self.rank,
            world_size=self.world_size,
        )
        if train:
            self.train_sampler = sampler
        return batch_loader(dataset, sampler, pin_memory=self.device_type == "cuda", **loader_kwargs)

    # A step

    def _make_replay(self):
        """What records and replays the steps of a GPU; None where each kernel is launched."""
        if not getattr(self.hparams, "cuda_graphs", False):
            return None
        if self.modulation.weighting is not None:
            raise UserError(f"cuda_graphs records a step's weights: leave it False with {self.modulation.rule}")
        if self.hparams.training_signal_len is None:
            raise UserError("cuda_graphs wants mixtures of one length: give training_signal_len, such as 4 (seconds)")
        return Replay(self._gradients_to_keep, keeps=self.modules.buffers()) if self.device_type == "cuda" else None

    def compute_forward(self, batch: Batch, stage: sb.Stage) -> UtteranceLosses:
        """Both losses of every utterance and the estimates; see `utterance_losses`."""
        choice = self.loss_choice if stage == sb.Stage.TRAIN else self.loss_choice.of_the_last_step()
        return utterance_losses(self.network, batch.to(self.device, non_blocking=True), choice)

    def compute_objectives(self, predictions: UtteranceLosses, batch: Batch, stage: sb.Stage) -> torch.Tensor:
        """Mean total loss L_SS + lambda * L_SE of the utterances, for the log."""
        total = predictions.separation
        if predictions.enhancement is not None:
            total = total + self.hparams.enhancement_weight * predictions.enhancement
        return total.mean()

    def fit_batch(self, batch: Batch | None) -> torch.Tensor:
        """Accumulate both gradients of a batch, and step at the end of the accumulation window.

        Returns the mean loss of the window at its end, which is when it is known without waiting; NaN before.
        """
        should_step = self.step % self.grad_accumulation_factor == 0
        self.on_fit_batch_start(batch, should_step)
        losses, loss, gradients = None, torch.zeros(()), None
        if batch is not None:
            if should_step:
                self.conflict_null.see(batch, self.optimizer_step, self.optimizer)
            losses, loss, gradients = self._losses_and_gradients(batch)
            self.weight_learning.remember(batch, losses)
            self.window_loss.append(loss)
            self.totals.add(losses)
        self.joint_step.add(gradients)
        shown = self.optimizers_step() if should_step else math.nan
        self.on_fit_batch_end(batch, losses, loss, should_step)
        self.advance_bar(shown)
        return torch.tensor(shown)

    def update_average(self, loss: torch.Tensor, avg_loss: float) -> float:
        """Running mean of the windows' losses."""
        if not torch.isfinite(loss):
            return avg_loss
        windows = -(-self.step // self.grad_accumulation_factor)
        return avg_loss + (float(loss) - avg_loss) / windows

    def optimizers_step(self) -> float:
        """Merge the two gradients, un-scale once, clip, step; without a kept utterance or a finite gradient, no step.

        Returns the mean loss of the window's batches on this rank, 0 without any.
        """
        factors = adam_factors(self.optimizer, self.joint_step.shared) if self._modulates_steps() else None
        count, finite = self.joint_step.merge(self._loss_scale(), factors)
        loss = torch.stack(self.window_loss).mean() if self.window_loss else torch.zeros_like(count)
        self.window_loss = []
        # The one wait for the device.
        kept, finite, loss = torch.stack([x.double() for x in (count, finite, loss)]).tolist()
        step = kept > 0 and (bool(finite) or self.scaler.is_enabled())
        if step:
            if self.scaler.is_enabled():
                self.scaler.unscale_(self.optimizer)
            if self.max_grad_norm > 0:
                torch.nn.utils.clip_grad_norm_(self.joint_step.parameters, self.max_grad_norm)
            self.learning_rate.warm_up(self.optimizer, self.optimizer_step + 1)
            self.scaler.step(self.optimizer)  # skips by itself where fp16 overflowed
            self.scaler.update()
            self.optimizer_step += 1
            if self.average is not None:
                self.average.update()
        self.weight_learning.learn(step)
        self.optimizer.zero_grad(set_to_none=True)
        if not finite and not self.scaler.is_enabled():
            self._nonfinite_step()
        return loss

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
            self.totals.reduce()  # rank 0 saves them for all
            return True
        return False

    def _save_intra_epoch_ckpt(self):
        with nullcontext() if self.average is None else self.average.in_use():
            super()._save_intra_epoch_ckpt()

    # Stages

    def on_fit_start(self) -> None:
        """Start or resume: recover the last checkpoint, the place in the epoch and the learning rate."""
        super().on_fit_start()
        if self.average is not None:
            self.average.start()
        if self.saved:
            state = self.saved.get("learning_rate") or self.learning_rate.state_of(self.optimizer)
            self.learning_rate.resume(self.hparams.epoch_counter.current, state)
            self.learning_rate.apply(self.optimizer)
        if self.step:
            refuse_other_batches(self.saved.get("epoch_of_batches"), self._epoch_of_batches())
            self.train_sampler.start = self.step
        if self._optimizer_step_limit_exceeded:  # a finished run does not train again
            self.hparams.epoch_counter.current = self.hparams.epoch_counter.limit
        self.start_bar(self.hparams.epoch_counter, len(self.train_sampler))

    def _epoch_of_batches(self):
        """Mixtures of an epoch and of a batch over all ranks: a checkpoint's step within the epoch is counted in these."""
        return [len(self.train_sampler.frames), self.train_sampler.batch_size * self.world_size]

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Start the statistics of a stage."""
        if self.average is not None:
            self.average.use(stage != sb.Stage.TRAIN)
        if stage == sb.Stage.TRAIN and (choice := self.losses_asked.in_epoch(epoch or 1)) != self.loss_choice:
            self.loss_choice, self.replay = choice, self._make_replay()  # a recorded step has the losses of before
        if stage == sb.Stage.VALID:
            self.validation = Validation(silence_defined=self.loss_choice.separation != "si_snr")
        elif not self.step:  # resumed inside the epoch: its statistics were recovered
            self.totals = LossTotals()
            self.modulation.reset()
            self.conflict_null.reset()

    def evaluate_batch(self, batch: Batch | None, stage: sb.Stage) -> torch.Tensor:
        """Add the losses and SI-SNR improvement of a validation batch; the mean is read at the end, NaN until then."""
        if batch is not None:  # a rank may have nothing in the last batch
            with torch.no_grad(), self.evaluation_ctx:
                losses = self.compute_forward(batch, stage)
            self.validation.add(batch, losses)
        return torch.tensor(math.nan)

    def on_stage_end(self, stage: sb.Stage, stage_loss: float | None, epoch: int | None = None) -> None:
        """Log; after validation also set the learning rate, draw the gradients and save a checkpoint."""
        if stage == sb.Stage.TRAIN:
            if self.joint_step.pending:
                if not self._optimizer_step_limit_exceeded:
                    self.optimizers_step()  # the epoch ended inside an accumulation window
                self.joint_step.reset()
            self._checkpoint_due = False
            average_buffers(self.modules)
            self.totals.reduce()
            statistics = self.modulation.statistics() if self.joint_step.with_enhancement else {}
            self.train_stats = self.totals.means() | {k: v for k, v in statistics.items() if v is not None}
        elif stage == sb.Stage.VALID:
            self._end_epoch(epoch)

    def _end_epoch(self, epoch):
        """Log the epoch and save it; one without finite losses can never be the best, and NaN weights are not saved."""
        valid_stats, undefined, failed = self.validation.end()
        if undefined and epoch == 1:
            logger.warning(f"validation leaves out {counted(undefined)}: a reference is silent")
        if failed:
            logger.warning(f"epoch {epoch} cannot be the best: the network gives no finite loss for {counted(failed)}")
        lr = self.learning_rate.value
        self.learning_rate.end_epoch(epoch, valid_stats["loss_ss"])
        self.learning_rate.apply(self.optimizer)
        stats = {"epoch": epoch, "lr": lr, "optimizer_steps": self.optimizer_step}
        self.hparams.train_logger.log_stats(stats, self.train_stats, valid_stats)  # on all ranks: it is a collective
        if if_main_process():
            self._write_records({"meta": stats, "train": self.train_stats, "valid": valid_stats}, epoch)
        self.say_epoch(epoch, self.train_stats | valid_stats | stats)
        if not all(p.isfinite().all() for p in self.modules.parameters()):
            raise UserError(
                f"the weights are not finite after epoch {epoch}: lower lr and run the command again, it goes on from the "
                "last checkpoint"
            )
        finite = math.isfinite(valid_stats["si_snri"])
        if self.checkpointer is not None:
            self.checkpointer.save_and_keep_only(
                meta={"epoch": epoch} | ({"si_snri": valid_stats["si_snri"]} if finite else {"failed": True}),
                max_keys=["si_snri"],
                num_to_keep=1,
            )
        if not finite and not failed:
            raise UserError(
                "no utterance of the validation part has a defined SI-SNR: in every one a reference is silent"
            )

    def _write_records(self, numbers, epoch):
        """Write an epoch's numbers to TensorBoard and, where both tasks had gradients, the table of their conflict."""
        if self.records is None:
            self.records = Records(self.hparams.output_folder, self.hparams.tensorboard)
        conflict = "conflict_rate" in self.train_stats  # absent where one task trains alone, or no step was taken
        self.records.write(numbers, self.modulation.table() if conflict else None, epoch, self.conflict_null.table())

    # Test

    def on_evaluate_start(self, max_key: str | None = None, min_key: str | None = None) -> None:
        """Load the best checkpoint.

        Raises
        ------
        UserError
            When there is none, or no epoch had finite losses on the validation part.
        """
        if self.checkpointer is not None:
            recover_best(self.checkpointer, max_key, min_key)

    # Checkpoints

    @mark_as_saver
    def _save(self, path):
        """Write the place in the epoch, the running sums and the learning rate as JSON.

        SpeechBrain's Checkpointer calls it on the main process, once a checkpoint.
        """
        state = {
            "step": self.step,
            "avg_train_loss": float(self.avg_train_loss),
            "optimizer_step": self.optimizer_step,
            "totals": self.totals.state(),
            "learning_rate": self.learning_rate.state(),
            "epoch_of_batches": self._epoch_of_batches(),
        }
        Path(path).write_text(json.dumps(state), encoding="utf-8")

    @mark_as_loader
    def _recover(self, path, end_of_epoch):
        """Read what `_save` wrote; SpeechBrain's Checkpointer calls it on every process.

        After a checkpoint inside an epoch, training goes on with the step behind it; after one at the end of an epoch,
        with the first step of the next.
        """
        self.saved = json.loads(Path(path).read_text(encoding="utf-8"))
        self.optimizer_step = self.saved["optimizer_step"]
        if end_of_epoch:
            self.step, self.avg_train_loss = 0, 0.0
            return
        self.step, self.avg_train_loss = self.saved["step"], self.saved["avg_train_loss"]
        self.totals = LossTotals(self.saved["totals"] if self.rank == 0 else None)
