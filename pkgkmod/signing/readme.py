"""What goes with exported digests, for the people who sign them."""

from __future__ import annotations

_HEAD = """\
{count} to be signed for kernel modules
{underline}

Each file DIGEST.HASH holds one digest, as raw bytes, and is named by it in hex.
DIGEST.digestinfo is the same with the name of its hash (PKCS #1), for RSA signers that only pad and sign.
manifest.json says which module of which package it belongs to, and the module's SHA-256.
Put the signature beside it, as DIGEST.sig, or as DIGEST.p7s, then hand this folder back.
Run the commands in this folder; replace the words in capitals.

A .sig is a raw signature: PKCS #1 v1.5 for RSA (not PSS), or ECDSA.
A .p7s is a detached CMS message in DER, without signed attributes.
"""

_OPENSSL = """
With OpenSSL and a private key in PEM
-------------------------------------
{loops}"""

_LOOP = """\
for file in *.{hash}; do
    openssl pkeyutl -sign -inkey KEY.pem -pkeyopt digest:{hash} -in "$file" -out "${{file%.{hash}}}.sig"
done
"""

_TOKEN = """
With a PKCS#11 token, an RSA key
--------------------------------
export KEY_PIN   # the PIN, so that no list of processes has it
for file in *.digestinfo; do
    pkcs11-tool --module MODULE.so --token-label TOKEN --login --pin env:KEY_PIN --sign --id ID \\
        --mechanism RSA-PKCS --input-file "$file" --output-file "${file%.digestinfo}.sig"
done
"""

_TOKEN_EC = """
With a PKCS#11 token, an ECDSA key
----------------------------------
{loops}"""

_TOKEN_EC_LOOP = """\
for file in *.{hash}; do
    pkcs11-tool --module MODULE.so --token-label TOKEN --login --pin env:KEY_PIN --sign --id ID \\
        --mechanism ECDSA --signature-format openssl --input-file "$file" --output-file "${{file%.{hash}}}.sig"
done
"""

_CMS = """
With a signer that makes CMS messages (each DIGEST.ko is the module itself)
---------------------------------------------------------------------------
{loops}"""

_CMS_LOOP = """\
for file in *.{hash}; do
    openssl cms -sign -binary -noattr -nocerts -md {hash} -signer CERTIFICATE.pem -inkey KEY.pem \\
        -outform DER -in "${{file%.{hash}}}.ko" -out "${{file%.{hash}}}.p7s"
done
"""


def readme(hashes: tuple[str, ...], count: int, *, contents: bool) -> str:
    """Return the README of an export: exact commands for each hash in it."""
    title = f"{count} {'digest' if count == 1 else 'digests'}"
    head = _HEAD.format(count=title, underline="=" * len(f"{title} to be signed for kernel modules"))
    parts = [
        head,
        _OPENSSL.format(loops=_loops(_LOOP, hashes)),
        _TOKEN,
        _TOKEN_EC.format(loops=_loops(_TOKEN_EC_LOOP, hashes)),
    ]
    if contents:
        parts.append(_CMS.format(loops=_loops(_CMS_LOOP, hashes)))
    return "".join(parts)


def _loops(template: str, hashes: tuple[str, ...]) -> str:
    return "".join(template.format(hash=hash) for hash in hashes)
