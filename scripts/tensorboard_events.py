"""Writes TensorBoard event files, with nothing but Python's own library.

An event file is a sequence of records: length (8 bytes), masked CRC-32C of the length, data, masked
CRC-32C of the data, little-endian (TensorFlow's TFRecord); each datum is an Event protocol buffer.
"""

import struct

CASTAGNOLI = 0x82F63B78  # CRC-32C polynomial, reflected
MASK_DELTA = 0xA282EAD8  # TFRecord's mask, so that a CRC of data that holds CRCs stays sound


def _crc_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (CASTAGNOLI if value & 1 else 0)
        table.append(value)
    return table


CRC_TABLE = _crc_table()


def masked_crc(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + MASK_DELTA) & 0xFFFFFFFF


def varint(value):
    result = bytearray()
    while value >= 0x80:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)


def field_bytes(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def event(wall_time, step=0, tag=None, value=None):
    """Event{wall_time=1, step=2, file_version=3 | summary=5{value=1{tag=1, simple_value=2}}}."""
    data = varint(1 << 3 | 1) + struct.pack("<d", wall_time) + varint(2 << 3) + varint(step)
    if tag is None:
        return data + field_bytes(3, b"brain.Event:2")
    number = field_bytes(1, tag.encode()) + varint(2 << 3 | 5) + struct.pack("<f", value)
    return data + field_bytes(5, field_bytes(1, number))


def record(data):
    length = struct.pack("<Q", len(data))
    return (length + struct.pack("<I", masked_crc(length)) + data
            + struct.pack("<I", masked_crc(data)))


def write_events(path, scalars):
    """scalars: (tag, step, value, wall time in seconds) of every point, in any order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(record(event(0.0)))
        for tag, step, value, seconds in scalars:
            file.write(record(event(seconds, step, tag, value)))
