"""Published vectors through the functions that the protocol really calls."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lightning_fed.masking import keys, shares, streams

h = bytes.fromhex


@pytest.mark.parametrize(
    ("private", "public", "secret"),
    [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
        (
            "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
            "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
            "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742",
        ),
        (
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
            "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
            "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742",
        ),
    ],
)
def test_key_agreement_is_that_of_rfc_7748(private, public, secret):
    assert keys.agree(keys.private_key(h(private)), h(public), "st-marys") == h(secret)


def test_public_keys_are_those_of_rfc_7748():
    private = keys.private_key(h("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"))
    public = h("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    assert private.public_key().public_bytes_raw() == public
    keys.check_public_key(public, "st-marys")


@pytest.mark.parametrize(
    ("secret", "public", "message", "signature"),
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
            "d25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
            "387b2eaeb4302aeeb00d291612bb0c00",
        ),
    ],
)
def test_signatures_are_those_of_rfc_8032(secret, public, message, signature):
    identity = Ed25519PrivateKey.from_private_bytes(h(secret))
    assert keys.sign(identity, h(message)) == h(signature)
    assert keys.is_signed(h(public), h(signature), h(message))
    assert not keys.is_signed(h(public), h(signature), h(message) + b"!")


@pytest.mark.parametrize(
    ("secret", "salt", "info", "derived"),
    [
        (
            b"\x0b" * 22,
            bytes(range(13)),
            bytes(range(0xF0, 0xFA)),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            bytes(range(0x50)),
            bytes(range(0x60, 0xB0)),
            bytes(range(0xB0, 0x100)),
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
            "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (
            b"\x0b" * 22,
            b"",
            b"",
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ],
)
def test_key_derivation_is_that_of_rfc_5869(secret, salt, info, derived):
    assert keys.hkdf(secret, salt, info, len(h(derived))) == h(derived)


def test_mask_stream_is_the_ctr_keystream_of_nist_sp_800_38a():
    key, counter = h("2b7e151628aed2a6abf7158809cf4f3c"), h("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    plaintext = h(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411e5fbc1191a0a52ef"
        "f69f2445df4f9b17ad2b417be66c3710"
    )
    ciphertext = h(
        "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff5ae4df3edbd5d35e5b4f09020db03eab"
        "1e031dda2fbe03d1792170a0f3009cee"
    )
    stream = np.zeros(len(plaintext), dtype=np.uint8)
    streams.apply_streams(stream, [key + counter], [])
    assert bytes(stream ^ np.frombuffer(plaintext, np.uint8)) == ciphertext


def test_sealed_bundles_are_aes_256_gcm():
    # McGrew and Viega, The Galois/Counter Mode of Operation, appendix B, test case 15
    key = h("feffe9928665731c6d6a8f9467308308" * 2)
    plaintext = h(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525"
        "b16aedf5aa0de657ba637b391aafd255"
    )
    sealed = h(
        "cafebabefacedbaddecaf888"
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838"
        "c5f61e6393ba7a0abcc9f662898015ad"
        "b094dac5d93471bdec1a502270e3cc6c"
    )
    assert keys.unseal(key, sealed, len(plaintext), "st-marys") == plaintext


def test_shares_are_points_of_a_line_over_gf_2_128():
    secret, slope = int.from_bytes(b"a secret of 16 B", "big"), 0xF0E1D2C3B4A5968778695A4B3C2D1E0F
    # Twice the slope: shifted once, reduced by x^128 = x^7 + x^2 + x + 1; three times: twice plus once.
    twice = ((slope << 1) ^ 0x87) & ((1 << 128) - 1)
    points = {1: secret ^ slope, 2: secret ^ twice, 3: secret ^ twice ^ slope}
    line = {number: value.to_bytes(16, "big") for number, value in points.items()}
    for pair in ((1, 2), (1, 3), (2, 3)):
        assert shares.combine({number: line[number] for number in pair}, 2) == b"a secret of 16 B"
