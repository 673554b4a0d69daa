"""The training loop: decide the batches, run forward and backward, account for everything."""

from __future__ import annotations

import contextlib
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ttt_ref import checkpoint as model_folder
from ttt_ref.errors import CheckpointError, ConfigError
from ttt_ref.losses import draw_noise
from ttt_ref.train import state as run_state
from ttt_ref.train.collate import Feed, make_feed, noise_of, pad
from ttt_ref.train.config import TrainConfig, to_dict
from ttt_ref.train.data import data_notes, open_data
from ttt_ref.train.device import mixed_precision
from ttt_ref.train.ema import WeightAverage
from ttt_ref.train.evaluate import Evaluation, figures
from ttt_ref.train.logs import RunLog
from ttt_ref.train.lora import add_adapters, checkpoint_layers, merged, save_adapter
from ttt_ref.train.objective import Objective, score
from ttt_ref.train.optimizers import make_optimizers
from ttt_ref.train.sampler import Position, Sampler
from ttt_ref.train.schedule import Schedule
from ttt_ref.train.start import Start, make_start


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or a termination signal; the state up to the last full step has been written."""


class Trainer:
    """One run. Build it (which also resumes), then call :meth:`run`."""

    def __init__(self, config: TrainConfig, resume: bool = False) -> None:
        self.config = config
        self.output = Path(config.output_dir)
        self.checkpoints = self.output / "checkpoints"
        if config.threads > 0:
            torch.set_num_threads(config.threads)
        torch.set_flush_denormal(True)
        self.accelerator = Accelerator(
            mixed_precision=mixed_precision(config.precision), step_scheduler_with_optimizer=False
        )
        torch.manual_seed(config.seed)
        resume_from = self._find_resume(resume)

        start = make_start(config.model, config.seed)
        self.start = start
        with self.accelerator.main_process_first():
            training, held_out = open_data(config, start)
        self.notes = list(start.notes) + data_notes([*training, *held_out], config.batch.max_length)
        self.sampler = Sampler(
            training,
            [item.weight for item in config.data],
            config.seed,
            config.batch,
            config.objective,
            start.layout,
            config.augment,
        )
        self.evaluations = [Evaluation(store, config, start.layout) for store in held_out]
        self.schedule = Schedule(config.optimizer.learning_rate, config.schedule)
        whole = self.accelerator.distributed_type in (DistributedType.NO, DistributedType.MULTI_CPU)
        on_cpu = self.accelerator.device.type == "cpu"
        plain = not config.lora.rank and not config.gradient_checkpointing
        if config.master_weights == "bf16":
            start.model.to(torch.bfloat16)
            plain = False
        if config.lora.rank:
            add_adapters(start.model, config.lora)
        if config.gradient_checkpointing:
            checkpoint_layers(start.model)
        by_rows = whole and on_cpu and plain  # the fast forward reads plain float32 matrices
        objective = Objective(start.model.train(), start.layout.audio_start, by_rows)
        sharded = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
        if config.optimizer.name == "muon" and self.accelerator.distributed_type in sharded:
            raise ConfigError(
                f"optimizer.name is 'muon' under {self.accelerator.distributed_type.value}, but it "
                "needs whole matrices; use 'adamw', or plain data parallelism"
            )
        prepared = self.accelerator.prepare(
            objective, *make_optimizers(objective, config.optimizer)
        )
        self.module, self.optimizers = prepared[0], prepared[1:]
        decay = config.optimizer.ema_decay
        self.average = WeightAverage(self.module, decay) if decay > 0 else None

        self.step = 0
        self.micro_step = 0
        self.elapsed_before_s = 0.0
        if resume_from is not None:
            self._load(resume_from)
        self.started = time.monotonic()
        self.last_checkpoint = self.started
        self.stop_requested = False
        self.log = RunLog(self.output, config.log, self.accelerator.is_main_process, self.step)

    # -- the run ---------------------------------------------------------------------------------

    def run(self) -> dict[str, float]:
        """Train to the end and return the last evaluation. Errors: Interrupted on Ctrl-C."""
        parameters = sum(p.numel() for p in self.start.model.parameters())
        self.log.say(
            f"{parameters / 1e6:.2f} M parameters, {self.accelerator.num_processes} process(es) "
            f"on {self.accelerator.device}, precision {self.accelerator.mixed_precision}, "
            f"from step {self.step}"
        )
        for line in self.notes:
            self.log.say(f"note: {line}")
        result: dict[str, float] = {}
        evaluated = -1  # step of the last evaluation
        with self._signals():
            self.reset_figures()
            elapsed, stop = self._agree()
            while not stop and not self.schedule.finished(self.step, elapsed):
                self.train_step(elapsed)
                elapsed, stop = self._agree()
                self._after_step(elapsed)
                if self._due(self.config.evaluation.every_steps):
                    result, evaluated = self._evaluate(), self.step
            if stop:
                self._save(elapsed)
                self.log.say(f"stopped; checkpoint of step {self.step} in {self.checkpoints}")
                self.log.close()
                raise Interrupted
        if self.config.evaluation.at_end and evaluated != self.step:
            result = self._evaluate()
        self._save(elapsed)
        self.export(self.output / "model")
        self.log.say(f"finished at step {self.step}; model in {self.output / 'model'}")
        self.log.close()
        self.accelerator.end_training()
        return result

    def _window(self) -> Iterator[tuple[Feed, bool]]:
        """Micro-batches of one optimizer step, with whether each is the last of it."""
        section = self.config.objective
        count = self.config.optimizer.accumulation_steps
        drawn = [self.sampler.next_batch() for _ in range(count)]
        samples = sum(len(examples) for examples in drawn)
        for number, examples in enumerate(drawn):
            # Drawn for the batch of all processes, so that their number changes nothing.
            generator = torch.Generator().manual_seed((self.config.seed << 32) + self.micro_step)
            self.micro_step += 1
            self.tokens += sum(len(example.ids) for example in examples)
            batch = pad(examples, self.start.layout, section.prompt_lengths)
            noised = draw_noise(batch, self.start.layout, noise_of(section), generator)
            # Released: each micro-batch is averaged on its own and the gradients add up.
            # Corrected: one average over all samples of the step, however it is cut.
            divisor = len(examples) if section.accumulation == "released" else samples
            feed = make_feed(
                batch,
                noised,
                self.start.layout,
                section,
                divisor,
                self.accelerator.process_index,
                self.accelerator.num_processes,
            )
            yield feed, number == count - 1

    def train_step(self, elapsed: float) -> None:
        """Take one optimizer step at a time of `elapsed` seconds of training."""
        rate = self.schedule.rate(self.step, elapsed)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        for feed, last in self._window():
            self.accelerator.sync_gradients = last
            alone = last or self.accelerator.distributed_type == DistributedType.DEEPSPEED
            quiet = contextlib.nullcontext() if alone else self.accelerator.no_sync(self.module)
            with quiet:
                loss, statistics = score(self.module, feed.to(self.accelerator.device))
                self.accelerator.backward(loss)
            self.figures += statistics.detach()
        norm = self.accelerator.clip_grad_norm_(
            self.module.parameters(), self.config.optimizer.max_grad_norm
        )
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if self.average is not None:
            self.average.update()
        if norm is not None:
            self.gradient_norm += float(norm)
        self.step += 1
        self.logged_steps += 1

    def _agree(self) -> tuple[float, bool]:
        """Elapsed seconds and the wish to stop, the same on all processes."""
        elapsed = self.elapsed_before_s + time.monotonic() - self.started
        if self.accelerator.num_processes == 1:
            return elapsed, self.stop_requested
        shared = torch.tensor(
            [elapsed * self.accelerator.is_main_process, float(self.stop_requested)],
            dtype=torch.float32,
            device=self.accelerator.device,
        )
        summed = self.accelerator.reduce(shared, reduction="sum")
        assert isinstance(summed, torch.Tensor)
        return float(summed[0]), float(summed[1]) > 0

    # -- after each step -------------------------------------------------------------------------

    def _due(self, every_steps: int) -> bool:
        return every_steps > 0 and self.step % every_steps == 0

    def _after_step(self, elapsed: float) -> None:
        if self._due(self.config.log.every_steps):
            self._log_step(elapsed)
        section = self.config.checkpoint
        minutes = (time.monotonic() - self.last_checkpoint) / 60.0
        timed = 0 < section.every_minutes <= minutes
        if self.accelerator.num_processes > 1:
            wish = torch.tensor([float(timed)], device=self.accelerator.device)
            reduced = self.accelerator.reduce(wish, reduction="sum")
            assert isinstance(reduced, torch.Tensor)
            timed = float(reduced[0]) > 0
        if timed or self._due(section.every_steps):
            self._save(elapsed)

    def reset_figures(self) -> None:
        """Begin anew to add up what the next report says."""
        self.figures = torch.zeros(7, device=self.accelerator.device)
        self.tokens = 0
        self.gradient_norm = 0.0
        self.logged_steps = 0
        self.logged_at = time.monotonic()

    def _log_step(self, elapsed: float) -> None:
        mean = self.accelerator.reduce(self.figures / self.logged_steps, reduction="mean")
        assert isinstance(mean, torch.Tensor)
        values = figures([float(value) for value in mean.cpu()])
        # With "released" accumulation the summed loss is what is trained on, and shown.
        values["learning_rate"] = float(self.optimizers[0].param_groups[0]["lr"])
        values["gradient_norm"] = self.gradient_norm / self.logged_steps
        values["tokens_per_s"] = self.tokens / (time.monotonic() - self.logged_at)
        values["elapsed_s"] = elapsed
        self.log.write("train", self.step, values)
        self.log.progress(
            max(
                self.schedule.progress(self.step, elapsed),
                self.step / self.config.schedule.max_steps if self.config.schedule.max_steps else 0,
            ),
            f"step {self.step}  text {values['text_loss']:.3f} "
            f"({100 * values['text_accuracy']:.1f}%)  "
            f"speech {values['speech_cross_entropy']:.3f} "
            f"({100 * values['speech_accuracy']:.1f}%)  {values['tokens_per_s']:.0f} tokens/s",
        )
        self.reset_figures()

    def _evaluate(self) -> dict[str, float]:
        paused = time.monotonic()
        averaged = self.average.applied() if self.average else contextlib.nullcontext()
        result: dict[str, float] = {}
        with averaged:
            for evaluation in self.evaluations:
                values = evaluation.run(self.module, self.accelerator)
                self.log.write(f"eval/{evaluation.name}", self.step, values)
                self.log.say(
                    f"eval {evaluation.name} at step {self.step}: "
                    f"text {values['text_loss']:.3f} ({100 * values['text_accuracy']:.1f}%, clean "
                    f"{100 * values['clean_text_accuracy']:.1f}%)  speech "
                    f"{values['speech_cross_entropy']:.3f} ({100 * values['speech_accuracy']:.1f}%)"
                )
                result |= {f"{evaluation.name}/{key}": value for key, value in values.items()}
        # The clock of the schedule and of the throughput counts training only.
        pause = time.monotonic() - paused
        self.started += pause
        self.logged_at += pause
        return result

    # -- checkpoints -----------------------------------------------------------------------------

    def _find_resume(self, resume: bool) -> Path | None:
        run_state.remove_unfinished(self.checkpoints)
        existing = run_state.list_checkpoints(self.checkpoints)
        if resume:
            return existing[-1] if existing else None
        if existing:
            raise CheckpointError(
                f"{self.output} already holds a run up to {existing[-1].name}; "
                "continue it with --resume or choose another output_dir"
            )
        return None

    def _save(self, elapsed: float) -> None:
        """Write a checkpoint of this step; all processes take part."""
        paused = time.monotonic()
        final = self.checkpoints / run_state.folder_name(self.step)
        temporary = self.checkpoints / f".{final.name}.tmp"
        if self.accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        with run_state.named_after(final):
            self.accelerator.save_state(str(temporary))
            if self.average is not None:
                number = self.accelerator.process_index
                save_file(self.average.tensors(), temporary / f"average-{number}.safetensors")
            self.export(temporary / "model")
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            state = run_state.RunState(
                step=self.step,
                elapsed_s=elapsed,
                processes=self.accelerator.num_processes,
                position=self.sampler.position.to_dict() | {"micro_step": self.micro_step},
                config=to_dict(self.config),
            )
            run_state.seal(temporary, final, state, self.config.checkpoint.keep)
        self.accelerator.wait_for_everyone()
        self.last_checkpoint = time.monotonic()
        self.started += self.last_checkpoint - paused
        self.logged_at += self.last_checkpoint - paused

    def _load(self, folder: Path) -> None:
        state = run_state.read_run(folder)
        if state.processes != self.accelerator.num_processes:
            raise CheckpointError(
                f"{folder} was written by {state.processes} process(es), this run has "
                f"{self.accelerator.num_processes}; resume with as many as before"
            )
        position = state.position
        if len(position["cursors"]) != len(self.config.data):
            raise CheckpointError(
                f"{folder} was trained on {len(position['cursors'])} data files, the configuration "
                f"names {len(self.config.data)}; resume with the same [[data]]"
            )
        try:
            self.accelerator.load_state(str(folder))
            if self.average is not None:
                name = f"average-{self.accelerator.process_index}.safetensors"
                self.average.load_tensors(load_file(folder / name))
        except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
            raise CheckpointError(
                f"{folder} does not fit this configuration ({str(error).splitlines()[0]}); "
                "resume with the configuration it was written with"
            ) from error
        self.step, self.elapsed_before_s = state.step, state.elapsed_s
        self.micro_step = int(position["micro_step"])
        self.sampler.seek(Position(position["pool"], tuple(position["cursors"]), position["batch"]))

    def export(self, folder: Path) -> None:
        """Write the model (its moving average where kept) in the released format.

        A run with adapters writes the merged model, and beside it the adapter in peft's form.
        """
        averaged = self.average.applied() if self.average else contextlib.nullcontext()
        with averaged:
            weights = self.accelerator.get_state_dict(self.module)  # all processes: FSDP gathers
        if not self.accelerator.is_main_process:
            return
        prefix = "model."
        own = {name.removeprefix(prefix): value.float() for name, value in weights.items()}
        if self.config.lora.rank:
            beside, base = folder.with_name("adapter"), self.config.model.checkpoint
            save_adapter(own, self.config.lora, beside, Path(base).name)
            own = merged(own, self.config.lora)
        with torch.device("meta"):
            model = type(self.start.model)(self.start.model.config)
        model.load_state_dict(own, assign=True)
        model_folder.save(
            folder,
            model,
            self.start.tokenizer_dir,
            self.start.layout,
            extra_config=self.start.extra_config,
            overwrite=True,
        )

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """The first Ctrl-C asks for a stop after the step, the second stops at once."""

        def on_signal(number: int, frame: FrameType | None) -> None:
            if self.stop_requested:
                raise KeyboardInterrupt
            self.stop_requested = True

        previous = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def train(config: TrainConfig, resume: bool = False) -> dict[str, float]:
    """Run a whole training and return the figures of its last evaluation."""
    return Trainer(config, resume).run()


__all__ = ["Interrupted", "Start", "Trainer", "train"]
