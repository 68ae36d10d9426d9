"""deit's main.py, engine.py, datasets.py, losses.py and augment.py, reduced; with --ThreeAugment those of DeiT III."""

import random

import torch
from PIL import ImageFilter, ImageOps
from timm.data import Mixup, create_transform
from timm.data.transforms import RandomResizedCropAndInterpolation
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.models import create_model
from torch import nn
from torchvision import datasets, transforms


class GaussianBlur:
    def __init__(self, p=0.1):
        self.prob = p

    def __call__(self, img):
        if random.random() > self.prob:
            return img
        return img.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


class Solarization:
    def __init__(self, p=0.2):
        self.p = p

    def __call__(self, img):
        return ImageOps.solarize(img) if random.random() < self.p else img


class gray_scale:
    def __init__(self, p=0.2):
        self.p = p
        self.transf = transforms.Grayscale(3)

    def __call__(self, img):
        return self.transf(img) if random.random() < self.p else img


def new_data_aug_generator(args):
    primary_tfl = [
        RandomResizedCropAndInterpolation(args.input_size, scale=(0.08, 1.0), interpolation="bicubic"),
        transforms.RandomHorizontalFlip(),
    ]
    secondary_tfl = [transforms.RandomChoice([gray_scale(p=1.0), Solarization(p=1.0), GaussianBlur(p=1.0)])]
    final_tfl = [
        transforms.ToTensor(),
        transforms.Normalize(mean=torch.tensor([0.485, 0.456, 0.406]), std=torch.tensor([0.229, 0.224, 0.225])),
    ]
    return transforms.Compose(primary_tfl + secondary_tfl + final_tfl)


def build_dataset(is_train, args):
    transform = create_transform(
        input_size=args.input_size,
        is_training=is_train,
        color_jitter=args.color_jitter,
        auto_augment=args.aa,
        interpolation="bicubic",
        re_prob=args.reprob,
    )
    return datasets.ImageFolder(args.data_path, transform=transform), args.nb_classes


class DistillationLoss(nn.Module):
    def __init__(self, base_criterion):
        super().__init__()
        self.base_criterion = base_criterion

    def forward(self, inputs, outputs, labels):
        return self.base_criterion(outputs, labels)


def main(args):
    device = torch.device(args.device)
    dataset_train, args.nb_classes = build_dataset(is_train=True, args=args)

    data_loader_train = torch.utils.data.DataLoader(
        dataset_train,
        sampler=torch.utils.data.RandomSampler(dataset_train),
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        drop_last=True,
    )
    if args.ThreeAugment:
        data_loader_train.dataset.transform = new_data_aug_generator(args)

    mixup_fn = None
    mixup_active = args.mixup > 0 or args.cutmix > 0.0
    if mixup_active:
        mixup_fn = Mixup(
            mixup_alpha=args.mixup, cutmix_alpha=args.cutmix, cutmix_minmax=args.cutmix_minmax,
            prob=args.mixup_prob, switch_prob=args.mixup_switch_prob, mode=args.mixup_mode,
            label_smoothing=args.smoothing, num_classes=args.nb_classes)

    model = create_model(args.model, num_classes=args.nb_classes).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    if mixup_active:
        # smoothing is handled with mixup label transform
        criterion = SoftTargetCrossEntropy()
    elif args.smoothing:
        criterion = LabelSmoothingCrossEntropy(smoothing=args.smoothing)
    else:
        criterion = torch.nn.CrossEntropyLoss()
    if args.bce_loss:
        criterion = torch.nn.BCEWithLogitsLoss()
    criterion = DistillationLoss(criterion)

    for epoch in range(args.epochs):
        train_one_epoch(model, criterion, data_loader_train, optimizer, device, epoch, mixup_fn, args)
    return data_loader_train


def train_one_epoch(model, criterion, data_loader, optimizer, device, epoch, mixup_fn, args):
    model.train()
    for samples, targets in data_loader:
        samples = samples.to(device, non_blocking=True)
        targets = targets.to(device, non_blocking=True)

        if mixup_fn is not None:
            samples, targets = mixup_fn(samples, targets)

        if args.bce_loss:
            targets = targets.gt(0.0).type(targets.dtype)

        outputs = model(samples)
        loss = criterion(samples, outputs, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
