"""torchvision's reference for classification, reduced: train.py, presets.py, transforms.py."""

import os

import torch
import torchvision
from torch import nn
from torch.utils.data.dataloader import default_collate
from torchvision.transforms import v2


class ClassificationPresetTrain:
    def __init__(self, *, crop_size, auto_augment_policy=None, hflip_prob=0.5):
        steps = [v2.RandomResizedCrop(crop_size, antialias=True), v2.RandomHorizontalFlip(hflip_prob)]
        if auto_augment_policy == "ra":
            steps.append(v2.RandAugment())
        elif auto_augment_policy == "ta_wide":
            steps.append(v2.TrivialAugmentWide())
        elif auto_augment_policy == "augmix":
            steps.append(v2.AugMix())
        elif auto_augment_policy is not None:
            steps.append(v2.AutoAugment())
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        steps += [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std), v2.ToPureTensor()]
        self.transforms = v2.Compose(steps)

    def __call__(self, img):
        return self.transforms(img)


def get_mixup_cutmix(mixup_alpha, cutmix_alpha, num_classes):
    mixers = []
    if mixup_alpha > 0:
        mixers.append(v2.MixUp(alpha=mixup_alpha, num_classes=num_classes))
    if cutmix_alpha > 0:
        mixers.append(v2.CutMix(alpha=cutmix_alpha, num_classes=num_classes))
    return v2.RandomChoice(mixers) if mixers else None


def load_data(traindir, valdir, args):
    cache_path = os.path.join(args.cache_dir, "train.pt")
    if args.cache_dataset and os.path.exists(cache_path):
        dataset, _ = torch.load(cache_path, weights_only=False)
    else:
        if args.weights:
            preprocessing = torchvision.models.get_weight(args.weights).transforms()
        else:
            preprocessing = ClassificationPresetTrain(
                crop_size=args.train_crop_size, auto_augment_policy=args.auto_augment
            )
        dataset = torchvision.datasets.ImageFolder(traindir, preprocessing)
        if args.cache_dataset:
            torch.save((dataset, traindir), cache_path)
    return dataset, None, torch.utils.data.RandomSampler(dataset), None


def main(args):
    device = torch.device(args.device)
    train_dir, val_dir = args.data_path, None
    dataset, dataset_test, train_sampler, test_sampler = load_data(train_dir, val_dir, args)

    num_classes = len(dataset.classes)
    mixup_cutmix = get_mixup_cutmix(args.mixup_alpha, args.cutmix_alpha, num_classes)
    if mixup_cutmix is not None:

        def collate_fn(batch):
            return mixup_cutmix(*default_collate(batch))

    else:
        collate_fn = default_collate

    data_loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=args.batch_size,
        sampler=train_sampler,
        num_workers=args.workers,
        collate_fn=collate_fn,
    )
    model = args.make_model(num_classes).to(device)
    criterion = nn.CrossEntropyLoss(label_smoothing=args.label_smoothing)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for epoch in range(args.epochs):
        train_one_epoch(model, criterion, optimizer, data_loader, device, epoch, args)
    return data_loader


def train_one_epoch(model, criterion, optimizer, data_loader, device, epoch, args):
    model.train()
    for i, (image, target) in enumerate(data_loader):
        image, target = image.to(device), target.to(device)
        output = model(image)
        loss = criterion(output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
