"""run_image_classification.py of transformers, reduced."""

import numpy as np
import torch
from datasets import load_dataset
from torchvision.transforms import CenterCrop, Compose, Normalize, RandomHorizontalFlip, RandomResizedCrop, Resize, ToTensor
from transformers import Trainer, TrainingArguments


def main(args):
    dataset = load_dataset("imagefolder", data_dir=args.data_dir, cache_dir=args.cache_dir)

    def collate_fn(examples):
        pixel_values = torch.stack([example["pixel_values"] for example in examples])
        labels = torch.tensor([example["label"] for example in examples])
        return {"pixel_values": pixel_values, "labels": labels}

    def compute_metrics(p):
        return {"accuracy": float((np.argmax(p.predictions, axis=1) == p.label_ids).mean())}

    normalize = Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    _train_transforms = Compose([RandomResizedCrop(32), RandomHorizontalFlip(), ToTensor(), normalize])
    _val_transforms = Compose([Resize(32), CenterCrop(32), ToTensor(), normalize])

    def train_transforms(example_batch):
        example_batch["pixel_values"] = [_train_transforms(image.convert("RGB")) for image in example_batch["image"]]
        return example_batch

    def val_transforms(example_batch):
        example_batch["pixel_values"] = [_val_transforms(image.convert("RGB")) for image in example_batch["image"]]
        return example_batch

    dataset["train"].set_transform(train_transforms)
    dataset["validation"].set_transform(val_transforms)

    # Initialize our trainer
    trainer = Trainer(
        model=args.make_model(args.num_classes),
        args=TrainingArguments(**args.training),
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"],
        compute_metrics=compute_metrics,
        data_collator=collate_fn,
    )
    trainer.train()
    return trainer.evaluate()
