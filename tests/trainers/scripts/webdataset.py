"""The notebook of webdataset that trains a ResNet-50, reduced."""

import torch
import webdataset as wds
from torch import nn, optim
from torchvision import transforms


def main(args):
    transform_train = transforms.Compose(
        [
            transforms.RandomResizedCrop(32),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )

    def make_sample(sample):
        return transform_train(sample["jpg"]), sample["cls"]

    trainset = wds.WebDataset(args.training_urls, resampled=True, shardshuffle=False)
    trainset = trainset.shuffle(1000).decode("pil").map(make_sample)

    trainset = trainset.batched(args.batchsize)
    trainloader = wds.WebLoader(trainset, batch_size=None, num_workers=args.workers)

    trainloader = trainloader.unbatched().shuffle(10).batched(args.batchsize)
    trainloader = trainloader.with_epoch(args.steps)

    device = torch.device(args.device)
    model = args.make_model(args.num_classes).to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    for data in trainloader:
        inputs, labels = data[0].to(device), data[1].to(device)
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
    return trainloader
