"""Training steps on a GPU: ViT-B/16 and a text tower of BERT-base's size, with random weights, and T-, T+ and (T+)-.

Images and captions are made up and written as JPEG and JSON lines, so that decoding, random crops, tokenising and the
generation of T+ and T- are part of the measurement.
"""

import json
import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from PIL import Image

from ascl_lightning.data.augment.negatives import ShuffleWords
from ascl_lightning.data.augment.positives import FirstHalf, JoinCaptions
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.sources import JsonLines
from ascl_lightning.losses import AsymmetricContrastiveLoss
from ascl_lightning.models.similarity.fused import FusedSimilarity
from ascl_lightning.models.towers.timm_backbone import TimmImageEncoder
from ascl_lightning.models.towers.transformers_text import TransformersTextEncoder
from ascl_lightning.training.callbacks.non_finite import NonFiniteSteps
from ascl_lightning.training.module import RetrievalModule

WORDS = [f"{a}{b}" for a in ("red", "blue", "old", "tall", "wet", "kind") for b in ("dog", "cat", "man", "sea", "hat")]
CUDA = torch.cuda.is_available()
CASES = {
    # name: (precision, batch size, steps, chunk size, compiled)
    "bf16-mixed": ("bf16-mixed", 256, 200, None, False),
    "16-mixed": ("16-mixed" if CUDA else "32-true", 256, 60, None, False),
    "bf16-mixed compiled": ("bf16-mixed", 256, 40, None, True),
    "bf16-mixed, 4,096 in chunks of 256": ("bf16-mixed", 4096, 3, 256, False),
}


def steps(small: bool) -> Iterator[dict]:
    """Pairs/s, share of time spent waiting for data, memory, and achieved FLOP/s relative to the GPU's."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        _write_pairs(root, 40 if small else 4096)
        _write_text_tower(root / "text", small)
        for case, settings in CASES.items():
            yield {"name": case} | _train(root, small, *settings)


class Clock(Callback):
    """Times the steps after the first few, and the waits for data between them."""

    def __init__(self, warm: int) -> None:
        self.warm, self.steps, self.waited, self.finite = warm, 0, 0.0, 0

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        now = time.perf_counter()
        if self.steps > self.warm:
            self.waited += now - self._ended
        if self.steps == self.warm:
            _wait()
            self.started = time.perf_counter()
        self.steps += 1

    def on_train_batch_end(self, trainer: Trainer, module: object, outputs: dict, *_: object) -> None:
        self.finite += bool(outputs["loss"].isfinite())  # waits for the device, so that a step is timed correctly
        self._ended = time.perf_counter()

    def on_train_end(self, *_: object) -> None:
        _wait()
        self.seconds = time.perf_counter() - self.started


def _train(
    root: Path, small: bool, precision: str, batch_size: int, num_steps: int, chunk_size: int | None, compiled: bool
) -> dict:
    seed_everything(0)
    if small:
        batch_size, num_steps, chunk_size = 8, 3, chunk_size and 4
    name, size = ("vit_tiny_patch16_224", 32) if small else ("vit_base_patch16_224", 224)
    images = TimmImageEncoder(name, image_size=size, token_grid=2 if small else 7)
    texts = TransformersTextEncoder(str(root / "text"), max_length=32)
    module = RetrievalModule(
        images, texts, FusedSimilarity(512, 8), AsymmetricContrastiveLoss(0.05),
        chunk_size=chunk_size, compile_towers=compiled,
    )  # fmt: skip
    data = RetrievalDataModule(
        JsonLines("pairs.jsonl"), str(root), positives=[JoinCaptions(), FirstHalf()], negatives=[ShuffleWords()],
        batch_size=batch_size, augment=True, num_workers=max(0, (os.cpu_count() or 1) - 2) if CUDA else 0,
        image_spec=images.spec, text_spec=texts.spec,
    )  # fmt: skip
    clock, guard = Clock(min(20, num_steps // 3)), NonFiniteSteps()
    trainer = Trainer(
        max_steps=num_steps, max_epochs=-1, precision=precision, devices=1, callbacks=[clock, guard],
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        limit_val_batches=0, use_distributed_sampler=False, gradient_clip_val=2.0,
    )  # fmt: skip
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    trainer.fit(module, data)
    timed = num_steps - clock.warm
    return {
        "pairs_per_second": round(batch_size * timed / clock.seconds, 1),
        "ms_per_step": round(1000 * clock.seconds / timed, 1),
        "data_wait_percent": round(100 * clock.waited / clock.seconds, 1),
        "gib": round(torch.cuda.max_memory_allocated() / 2**30, 1) if CUDA else None,
        "tower_tflops": round(_tower_flops(module) * batch_size * timed / clock.seconds / 1e12, 1),
        "finite_losses": f"{clock.finite} of {num_steps}",
        "skipped_steps": guard.state_dict()["skipped"],
    }


def _tower_flops(module: RetrievalModule) -> float:
    """Operations per pair, forward and backward: 6 per weight and token (an image, 4 texts of 32), no attention."""
    weights = [sum(p.numel() for n, p in t.named_parameters() if "embed" not in n) for t in module.model.children()]
    patches = (module.model.image_encoder.spec.size // 16) ** 2
    return 6 * (weights[0] * patches + weights[1] * 4 * 32)


def _write_pairs(root: Path, count: int) -> None:
    rng, words = np.random.default_rng(0), random.Random(0)
    rows = []
    for number in range(count):
        coarse = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((320, 256), Image.BICUBIC).save(root / f"{number}.jpg", quality=85)
        captions = [" ".join(words.sample(WORDS, 10)) for _ in range(5)]
        rows.append({"image": f"{number}.jpg", "split": "train", "captions": captions})
    rows += [row | {"split": "val", "image_id": f"val {row['image']}"} for row in rows[:8]]
    (root / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))


def _write_text_tower(folder: Path, small: bool) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    width = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    BertModel(BertConfig(**(width if small else {}))).save_pretrained(folder)


def _wait() -> None:
    if CUDA:
        torch.cuda.synchronize()
