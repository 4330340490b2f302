"""Training with compressed updates over sockets."""

import torch
from modules import train_with_checkpoints

from lightning_fed.plan import Compression


def test_a_killed_site_goes_on_from_its_checkpoint_with_what_it_had_not_sent(federation):
    """Two runs of the same deterministic training, one with a kill: without its residual the ends would differ."""
    ends = []
    for name in ("through", "killed"):
        here = federation(
            sites=2, name=name, rounds=5, compression=Compression("topk", share=0.1, values="float32"), gather_s=10.0
        )
        coordinator = here.coordinate()
        site, other = (here.site(one, train_with_checkpoints, False, 0.2) for one in here.sites)
        if name == "killed":
            last = here.folder / "site-0" / "last.ckpt"
            here.wait_for("round_finished", round=2)
            while not last.exists() or torch.load(last, weights_only=True)["callbacks"]["RoundLoop"]["version"] < 2:
                assert site.process.is_alive()
            site.kill()
            kept = torch.load(last, weights_only=True)["callbacks"]["RoundLoop"]["exchange"]["residual"]
            assert kept.norm() > 0
            site = here.site("site-0", train_with_checkpoints, True)
        site.result()
        other.result()
        coordinator.result()
        ends.append(here.model(5))
    for tensor in ends[0]:
        torch.testing.assert_close(ends[1][tensor], ends[0][tensor], rtol=1e-5, atol=1e-6)
