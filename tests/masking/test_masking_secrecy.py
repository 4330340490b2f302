import numpy as np
import pytest
from masked_sum import CONTEXT, Federation, copy_of, names_of, until_masked
from scipy import stats

from lightning_fed.errors import FederationError
from lightning_fed.masking import Terms, masks
from lightning_fed.masking import messages as m
from lightning_fed.masking.streams import word_dtype

TERMS = Terms(minimum_cohort=3, threshold=3)
HEADER = (CONTEXT.round, CONTEXT.attempt, CONTEXT.purpose)


def upload_of(update, bits: int) -> np.ndarray:
    """The masked upload of ``update`` at one site of a fresh cohort of four."""
    names = names_of(4)
    run = Federation(names, TERMS, size=len(update), bits=bits)
    run.advertise()
    run.share()
    run.sites[names[1]].receive_shares(run.bundles[names[1]])
    vector = np.array(update, dtype=word_dtype(bits))
    run.sites[names[1]].mask(vector, bits)
    return vector


def uniform(values: np.ndarray, kinds: int) -> float:
    return float(stats.chisquare(np.bincount(values, minlength=kinds)).pvalue)


@pytest.mark.parametrize("update", ["zeros", "ramp"])
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_a_masked_upload_is_indistinguishable_from_uniform_bytes(bits, update):
    size = 1 << 17
    plain = np.zeros(size, np.int64) if update == "zeros" else np.arange(size) % (1 << bits)
    upload = upload_of(plain, bits)
    # A wrong build fails this by hundreds of orders of magnitude; a right one once in a million runs.
    for place in range(upload.dtype.itemsize):
        assert uniform(upload.view(np.uint8)[place :: upload.dtype.itemsize], 256) > 1e-6


@pytest.mark.parametrize("bits", [9, 12, 20, 31])
def test_a_masked_upload_is_uniform_in_rings_that_do_not_fill_their_word(bits):
    upload = upload_of(np.zeros(1 << 17, np.int64), bits)
    assert int(upload.max()) < 1 << bits
    assert uniform((upload & 0xFF).astype(np.int64), 256) > 1e-6
    assert uniform((upload >> (bits - 8)).astype(np.int64), 256) > 1e-6


def test_two_uploads_of_the_same_update_share_nothing():
    update = np.arange(1 << 17) % 1000
    one, other = upload_of(update, 32), upload_of(update, 32)
    for combined in (one ^ other, one - other):
        assert uniform(combined.view(np.uint8), 256) > 1e-6
    # Two uniform vectors agree in 2^17 / 2^32 places on average; four would be a chance of about 3e-20.
    assert np.count_nonzero(one == other) < 4
    assert len(np.intersect1d(one, other)) < 64


def test_the_sum_of_all_uploads_but_one_is_uniform_too():
    run = until_masked(4, TERMS, size=1 << 16)
    partial = sum((run.uploads[name] for name in names_of(4)[1:]), start=np.zeros(1 << 16, np.uint32))
    plain = sum((run.vectors[name] for name in names_of(4)[1:]), start=np.zeros(1 << 16, np.uint32))
    assert uniform((partial - plain).view(np.uint8), 256) > 1e-6


def secrets_of(site) -> dict[str, bytes]:
    found = {
        "self seed": site._self_seed,
        "mask seed": site._mask_seed,
        "mask key": site._mask.private_bytes_raw(),
        "sharing key": site._sharing.private_bytes_raw(),
        "identity": site._identity.private_bytes_raw(),
    }
    if site._cohort is not None:
        found["self stream"] = masks.self_stream(site._self_seed, site._cohort.hash, site.site)
    found |= {f"pair stream {peer}": seed for peer, seed in site._pairs.items()}
    found |= {f"channel {peer}": key for peer, key in site._channels.items()}
    return {name: secret for name, secret in found.items() if secret}


def shares_of(site) -> list[bytes]:
    return [share for pair in site._held.values() for share in pair]


def spellings(secret: bytes) -> list[str]:
    return [secret.hex(), repr(secret)[2:-1], str(list(secret))[1:-1]]


def test_no_secret_is_in_any_message_error_or_repr():
    names = names_of(5)
    run = Federation(names, TERMS)
    texts: list[str] = []
    messages: list[m.MaskingMessage] = []
    secrets: set[bytes] = set()
    shared: set[bytes] = set()

    def note(*found):
        messages.extend(found)
        texts.extend(repr(message) for message in found)
        for site in run.sites.values():
            secrets.update(secrets_of(site).values())
            shared.update(shares_of(site))
            texts.extend([repr(site), str(site)])
        texts.extend([repr(run.coordinator), str(run.coordinator)])

    def fail(step, *arguments):
        with pytest.raises(FederationError) as caught:
            step(*arguments)
        error: BaseException | None = caught.value
        while error is not None:
            texts.extend([str(error), repr(error)])
            error = error.__cause__

    victim = run.sites[names[0]]
    note(*run.advertise().values())
    ads = run.cohort[names[0]].advertisements
    fail(victim.receive_keys, copy_of(run.cohort[names[0]], advertisements=ads[:2]))
    fail(
        victim.receive_keys,
        copy_of(run.cohort[names[0]], advertisements=(copy_of(ads[0], mask_key=bytes(32)), *ads[1:])),
    )
    note(*run.share(names[1:] + names[:1]).values())
    bundles = run.bundles[names[0]]
    fail(victim.receive_shares, copy_of(bundles, sealed=dict.fromkeys(bundles.sealed, bytes(60))))
    fail(victim.receive_shares, copy_of(bundles, sealed=dict.fromkeys(bundles.sealed, b"short")))
    note(*run.upload(names[:4]).values())
    fail(victim.mask, np.zeros(5, np.uint32), 32)
    fail(victim.sign_survivors, m.Survivors(*HEADER, {name: bytes(64) for name in names}))
    note(*run.sign().values())
    fail(victim.reveal, m.Signatures(*HEADER, {name: bytes(64) for name in names[:4]}))
    reveals = [run.sites[name].reveal(run.signatures[name]) for name in names[:4]]
    note(*reveals)
    bad = copy_of(reveals[0], self_shares={name: bytes(16) for name in reveals[0].self_shares})
    fail(run.coordinator.receive, names[0], copy_of(bad, self_shares={}))
    fail(run.coordinator.receive, names[0], copy_of(bad, own_seed=bytes(16)))
    run.coordinator.receive(names[0], bad)
    # The third is lost before it reveals, so that the wrong share of it counts.
    for name, message in zip([names[1], names[3]], [reveals[1], reveals[3]], strict=True):
        run.coordinator.receive(name, message)
    fail(run.coordinator.unmask)

    assert len(secrets) > 5 * 8
    assert len(shared) == 4 * 4 * 2
    everything = "\n".join(texts)
    for secret in secrets | shared:
        assert not any(spelling in everything for spelling in spellings(secret))
    opened = [m.encode(message) for message in reveals]
    closed = run.wire + [m.encode(message) for message in messages if not isinstance(message, m.Reveal)]
    assert not any(secret in data for secret in secrets for data in closed)
    own = {message.own_seed for message in reveals}
    assert len(own) == 4
    assert not any(secret in data for secret in secrets - own for data in opened)
    assert not any(share in data for share in shared for data in closed)


def test_a_site_that_has_revealed_keeps_no_secret_of_the_sum():
    run = until_masked(4, TERMS)
    before = {name: secrets_of(site) for name, site in run.sites.items()}
    run.sign()
    run.reveal()
    for name, site in run.sites.items():
        after = secrets_of(site)
        assert set(after) == {"mask key", "sharing key", "identity", "self stream"}
        assert not (set(after.values()) - {site._identity.private_bytes_raw()}) & set(before[name].values())
        assert shares_of(site) == []
