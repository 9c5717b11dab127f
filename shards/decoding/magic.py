"""What a file is, by its first bytes: a JPEG, a PNG, a DICOM, or something else that has a name."""

import re

from shards.decoding.decoded import RejectedImage, unsupported

_IMAGES = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n"}
_DICOM = re.compile(  # old ones have no preamble, and begin with group 2 or 8; the last is big-endian
    rb".{128}DICM|\x08\0[\0\x01\x05\x08\x16]\0|\x02\0[\0\x01\x02\x10]\0(?:U[LI]|OB)"
    rb"|\0\x08\0[\0\x05\x08\x16][A-Z]{2}",
    re.DOTALL,
)
_OTHERS = {
    "a WebP image": rb"RIFF....WEBP",
    "an AVIF image": rb"....ftypavi[fs]",
    "a HEIC image": rb"....ftyp(?:he[im][cxsv]|hev[cx]|mif1|msf1)",
    "a JPEG 2000 image": rb"\0\0\0\x0cjP(?:  |\x1a\x1a)\r\n|\xff\x4f\xff\x51",
    "a JPEG XL image": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "a JPEG XR image": rb"II\xbc",
    "a TIFF image": rb"II[*+]\0|MM\0[*+]",
    "a BMP image": rb"BM.{4}\0{4}",
    "a GIF image": rb"GIF8[79]a",
    "a Photoshop image": rb"8BPS",
    "a JNG or MNG image": rb"\x8a[MJ]NG|\x8bJNG",
    "a Netpbm image": rb"P[1-7]\s",
    "an SVG image": rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>)?\s*(?:<!--.*?-->\s*)?(?:<!DOCTYPE svg[^>]*>\s*)?<svg\b",
    "a video": rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ",
    "a NIfTI image": rb".{344}n[i+]1\0",
    "a NumPy array": rb"\x93NUMPY",
    "an HDF5 file": rb"\x89HDF\r\n",
}
_MISHAPS = {
    "a web page, not an image: download it again": rb"(?i:(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html|head|body|!--))",
    "an XML text, not an image: a server's answer; download it again": rb"(?i:(?:\xef\xbb\xbf)?\s*<(?:\?xml|error)\b)",
    "a JSON text, not an image: a server's answer; download it again": rb"\s*\{\s*[\"}]",
    "a Git LFS pointer, not the image: git lfs pull fetches it": rb"version https://git-lfs\.github\.com/",
    "a git-annex pointer, not the image: git annex get fetches it": rb"(?:\.\./)*/?(?:\.git/)?annex/objects/",
    "an archive, not an image: a zip file; unpack it": rb"PK(?:\x03\x04|\x05\x06)",
    "an archive, not an image: a gzip file; unpack it": rb"\x1f\x8b",
    "an archive, not an image: a bzip2 file; unpack it": rb"BZh[1-9]",
    "an archive, not an image: an xz file; unpack it": rb"\xfd7zXZ\0",
    "an archive, not an image: a 7z file; unpack it": rb"7z\xbc\xaf\x27\x1c",
    "an archive, not an image: a Zstandard file; unpack it": rb"\x28\xb5\x2f\xfd",
    "an archive, not an image: a tar file; unpack it": rb".{257}ustar",
    "a PDF, not an image: save its picture as a PNG": rb"%PDF",
    "an image damaged as text: copy or download it as binary": (
        rb"\x89PNG|(?:\xc2\x89|\xef\xbf\xbd|\x09|\?)PNG|\xc3\xbf\xc3\x98|(?:\xef\xbf\xbd){3}"
    ),
}


def image_kind(data: bytes) -> str:
    """ "JPEG", "PNG" or "DICOM". Raises RejectedImage that names what else `data` is, and what to do."""
    for kind, magic in _IMAGES.items():
        if data.startswith(magic):
            return kind
    if _DICOM.match(data):
        return "DICOM"
    begin = data[:4096]
    for what, pattern in _OTHERS.items():
        if re.match(pattern, begin, re.DOTALL):
            raise unsupported(what)
    for reason, pattern in _MISHAPS.items():
        if re.match(pattern, begin, re.DOTALL):
            raise RejectedImage(reason)
    if not data.strip(b"\0"):
        raise RejectedImage(f"all bytes are zero: {len(data):,} of them; copy or download it again")
    raise RejectedImage(f"not a JPEG, PNG or DICOM image: begins with {data[:12]!r}")
