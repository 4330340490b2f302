"""How much noise DP-SGD needs for an epsilon, by Rényi divergences and by privacy loss distributions.

    python benchmarks/noise_for_epsilon.py [--examples 700] [--batch 360] [--epochs 10] [--delta 1e-5] [--epsilon 1 3 8]

The defaults are the private study's (docs/private-study.md). Nothing is trained. ``bought`` is the epsilon, by PLD, of
the noise that RDP asks for: what was really promised while RDP counted.
"""

import argparse
import math
import time
import warnings

from lightning_fed.privacy.accounting import DpSgd, dp_sgd_noise_multiplier, epsilon, sample_rate_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=700)
    parser.add_argument("--batch", type=int, default=360)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--epsilon", type=float, nargs="+", default=[1.0, 3.0, 8.0])
    arguments = parser.parse_args()
    rate = sample_rate_of(arguments.batch, arguments.examples)
    steps = arguments.epochs * math.ceil(arguments.examples / arguments.batch)
    # Opacus' remark about its orders while it looks at noise that is far too large.
    warnings.filterwarnings("ignore", "Optimal order is the")
    print(f"{steps} steps at a sampling rate of {rate:.4g}, delta {arguments.delta:g}")
    print("| epsilon | noise by RDP | noise by PLD | less noise | bought | seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    for target in arguments.epsilon:
        by_rdp = dp_sgd_noise_multiplier(target, arguments.delta, rate, steps, "rdp")
        start = time.process_time()
        by_pld = dp_sgd_noise_multiplier(target, arguments.delta, rate, steps)
        seconds = time.process_time() - start
        bought = epsilon([DpSgd(rate, by_rdp, steps)], arguments.delta)
        less = f"{1 - by_pld / by_rdp:.1%}"
        print(f"| {target:g} | {by_rdp:.3f} | {by_pld:.3f} | {less} | {bought:.3f} | {seconds:.1f} |")


if __name__ == "__main__":
    main()
