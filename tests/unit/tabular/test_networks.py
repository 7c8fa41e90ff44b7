"""Networks over scalar features: what they learn by their task, and that they are files like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rows import MachineRows

from components.train.core import read_config, require_trainable
from components.train.parallel import Process
from components.train.trainer import Trainer
from millrace.errors import ConfigError, InvalidInput
from millrace.installed import Workload
from millrace.tabular import classes
from millrace.tabular.network import Network, QuantityNetwork
from millrace.tabular.weights import load_network, save_network

ALONE = Process(0, 1, torch.device("cpu"))
SMALL = {"bins": 8, "embedding": 4, "width": 16, "blocks": 1, "members": 2, "dropout": 0.0, "coverage": 0.8}


@pytest.fixture
def rows(machines: Workload) -> MachineRows:
    torch.set_num_threads(1)
    return MachineRows(machines)


def trained(rows: MachineRows, epochs: int = 6) -> Trainer:
    config = read_config(rows.workload, epochs=epochs, batch_size=256, learning_rate=0.01, model=SMALL)
    trainer = Trainer(rows, config, ALONE)
    trainer.fit_preprocessing()
    for epoch in range(epochs):
        trainer.epoch(epoch)
    return trainer


def test_a_quantity_is_learned_in_its_unit_and_its_interval_holds_about_what_was_asked(rows: MachineRows) -> None:
    trainer = trained(rows)

    test = rows.rows_of("test")
    with torch.inference_mode():
        score, low, high = trainer.average(torch.from_numpy(rows.features[test])).numpy().T
    label = rows.label[test]
    assert np.abs(score - label).mean() < 0.65 * np.abs(np.median(rows.label) - label).mean()
    assert 0.65 < ((low <= label) & (label <= high)).mean() < 0.95
    assert trainer.validate().keys() == {"mean_absolute_error"}


def test_the_interval_never_crosses_the_median_whatever_is_asked(rows: MachineRows) -> None:
    network = trained(rows, epochs=1).average

    wild = torch.tensor([[1e9, -1e9, 0.0], [-5.0, 5.0, 1e30], [0.0, 0.0, 0.0]])
    score, low, high = network(wild).detach().numpy().T

    assert np.isfinite([score, low, high]).all()
    assert (low <= score).all()
    assert (score <= high).all()


def test_an_interval_is_wider_where_labels_spread_more(rows: MachineRows) -> None:
    network = trained(rows, epochs=20).average
    young, old = (torch.tensor([[0.5, 0.5, age]] * 2) for age in (0.05, 0.95))

    widths = [float((network(x)[0, 2] - network(x)[0, 1]).detach()) for x in (young, old)]

    assert widths[1] > 1.3 * widths[0]


def test_an_epoch_sees_every_row_of_a_quantity_once(rows: MachineRows) -> None:
    trainer = trained(rows, epochs=1)

    first, second = (np.concatenate(trainer.order(epoch)) for epoch in (0, 1))

    assert sorted(first) == sorted(trainer.train_rows)
    assert list(first) != list(second)


def test_rows_of_one_value_cannot_be_learned(rows: MachineRows) -> None:
    rows.label[:] = 5.0

    with pytest.raises(InvalidInput, match="train rows hold 2992 labels, 1 of them different"):
        require_trainable(rows, read_config(rows.workload))


def test_the_platform_s_search_space_fits_its_configuration(machines: Workload) -> None:
    from search.space import read_space

    assert len(read_space(machines, None, {}).parameters) >= 5


def test_a_size_of_another_network_is_refused(machines: Workload) -> None:
    with pytest.raises(ConfigError, match=r"model\.heads"):
        read_config(machines, model={"heads": 4})


def test_a_saved_network_says_whose_it_is_and_answers_the_same(rows: MachineRows, tmp_path: Path) -> None:
    network = trained(rows, epochs=1).average
    x = torch.from_numpy(rows.features[:5])

    save_network(network, rows.workload, tmp_path, name="x")

    loaded = load_network(tmp_path)
    assert isinstance(loaded, QuantityNetwork)
    torch.testing.assert_close(loaded(x), network(x), rtol=0, atol=0)


def test_a_class_is_learned_from_every_positive_and_a_share_of_the_rest(rows: MachineRows) -> None:
    label = (rows.label > np.quantile(rows.label, 0.9)).astype(np.int8)
    sizes = {name: value for name, value in SMALL.items() if name != "coverage"}
    torch.manual_seed(0)
    network: Network = classes.network(classes.Architecture(**sizes), ["heat", "load", "age"])
    x, y = torch.from_numpy(rows.features), torch.from_numpy(label).float()
    network.fit_preprocessing([x], y, label)
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.01)

    for _ in range(60):
        optimiser.zero_grad()
        network.loss(network.member_outputs(x), y, negative_share=1.0).backward()
        optimiser.step()

    logits = network.eval()(x).detach().double().numpy()
    assert logits.shape == (len(label),)
    assert network.figure(label, logits) > 0.5
    drawn = network.epoch_rows(np.arange(len(label)), label, 0.25, np.random.default_rng(0))
    assert len(drawn) == label.sum() + round(0.25 * (label == 0).sum())
