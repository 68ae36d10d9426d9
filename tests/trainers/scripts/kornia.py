"""A loop whose images are augmented on the device, a batch at a time, by kornia."""

import kornia.augmentation as K
import torch
from torch import nn
from torchvision import datasets
from torchvision.transforms import v2


def main(args):
    device = torch.device(args.device)
    load = v2.Compose([v2.ToImage(), v2.Resize((48, 48)), v2.ToDtype(torch.float32, scale=True)])
    augment = K.AugmentationSequential(
        K.RandomResizedCrop((32, 32), scale=(0.3, 1.0)),
        K.RandomHorizontalFlip(),
        K.RandomRotation(15.0),
        data_keys=["input"],
    )
    normalize = K.Normalize(torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225]))
    train_set = datasets.ImageFolder(args.data_dir, load)

    train_loader = torch.utils.data.DataLoader(train_set, batch_size=args.batch_size, num_workers=args.workers)
    model = args.make_model(args.num_classes).to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for images, labels in train_loader:
        images, labels = images.to(device), labels.to(device)
        images = augment(images)
        loss = criterion(model(normalize(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
