"""timm's train.py, reduced: its names, its order, and its package's own functions."""

import torch
from timm import utils
from timm.data import AugMixDataset, FastCollateMixup, Mixup, create_dataset, create_loader
from timm.loss import JsdCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.models import create_model
from timm.task import ClassificationTask, LogitDistillationTask
from torch import nn


def main(args):
    device = torch.device(args.device)
    model = create_model(args.model, num_classes=args.num_classes)

    dataset_train = create_dataset(
        args.dataset,
        root=args.data_dir,
        split="train",
        is_training=True,
        batch_size=args.batch_size,
    )

    dataset_eval = None
    if args.val_split:
        dataset_eval = create_dataset(args.dataset, root=args.data_dir, split=args.val_split, is_training=False)

    mixup_fn = None
    mixup_active = args.mixup > 0 or args.cutmix > 0.0
    mixup_args = dict(
        mixup_alpha=args.mixup,
        cutmix_alpha=args.cutmix,
        label_smoothing=args.smoothing,
        num_classes=args.num_classes,
    )
    if args.naflex_loader:
        raise NotImplementedError
    else:
        collate_fn = None
        if mixup_active:
            if args.prefetcher:
                collate_fn = FastCollateMixup(**mixup_args)
            else:
                mixup_fn = Mixup(**mixup_args)

        if args.aug_splits > 1:
            dataset_train = AugMixDataset(dataset_train, num_splits=args.aug_splits)

        loader_train = create_loader(
            dataset_train,
            input_size=(3, args.img_size, args.img_size),
            input_size_choices=args.train_img_sizes,
            batch_size=args.batch_size,
            is_training=True,
            scale=args.scale,
            ratio=args.ratio,
            hflip=args.hflip,
            vflip=args.vflip,
            color_jitter=args.color_jitter,
            auto_augment=args.aa,
            num_aug_splits=args.aug_splits,
            num_workers=args.workers,
            collate_fn=collate_fn,
            use_prefetcher=args.prefetcher,
            device=device,
        )

    if args.jsd_loss:
        train_loss_fn = JsdCrossEntropy(num_splits=args.aug_splits, smoothing=args.smoothing)
    elif mixup_active:
        train_loss_fn = SoftTargetCrossEntropy()
    elif args.smoothing:
        train_loss_fn = LabelSmoothingCrossEntropy(smoothing=args.smoothing)
    else:
        train_loss_fn = nn.CrossEntropyLoss()

    if args.kd_model:
        teacher = create_model(args.kd_model, num_classes=args.num_classes)
        task = LogitDistillationTask(model, teacher, criterion=train_loss_fn, device=device, verbose=False)
    else:
        task = ClassificationTask(model, criterion=train_loss_fn, device=device, verbose=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    for epoch in range(args.epochs):
        train_one_epoch(epoch, task, loader_train, optimizer, args, device=device, mixup_fn=mixup_fn)
    return loader_train


def train_one_epoch(epoch, task, loader, optimizer, args, device, mixup_fn=None):
    losses_m = utils.AverageMeter()
    task.get_trainable_module().train()
    for batch_idx, (input, target) in enumerate(loader):
        if not args.prefetcher:
            input, target = input.to(device=device), target.to(device=device)
            if mixup_fn is not None:
                input, target = mixup_fn(input, target)
        if args.channels_last:
            input = input.contiguous(memory_format=torch.channels_last)

        result = task(input, target)
        optimizer.zero_grad()
        result["loss"].backward()
        optimizer.step()
        losses_m.update(result["loss"].item(), input.size(0))
