"""A LightningModule and a fit, as its documentation has them."""

import lightning as L
import torch
from torch.nn import functional as F
from torchvision import datasets
from torchvision.transforms import v2


class LitModel(L.LightningModule):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.model(x), y)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def main(args):
    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomResizedCrop(32),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    train_set = datasets.ImageFolder(args.data_dir, transform)
    train_loader = torch.utils.data.DataLoader(train_set, batch_size=args.batch_size, num_workers=args.workers)

    model = LitModel(args.make_model(args.num_classes))
    trainer = L.Trainer(max_epochs=args.epochs, **args.trainer)
    trainer.fit(model, train_loader)
