#!/usr/bin/env python3
"""A user-space driver of the edu device with /dev/iommu, in Python alone: DMA out of this program's memory and back, and
an interrupt.

    uiommu run -- python3 examples/edu.py
"""
import ctypes
import fcntl
import glob
import mmap
import os
import struct

IOAS_ALLOC, IOAS_MAP, IOAS_UNMAP = 0x3B81, 0x3B85, 0x3B86
GET_REGION_INFO, SET_IRQS, BIND, ATTACH = 0x3B6C, 0x3B6E, 0x3B76, 0x3B77
FIXED_IOVA, WRITEABLE, READABLE = 1, 2, 4
CONFIG, COMMAND, MEMORY_AND_BUS_MASTER = 7, 4, 6
MSI, DATA_EVENTFD, ACTION_TRIGGER = 1, 4, 32

# The device, as QEMU's docs/specs/edu has it.
IDENTIFICATION, ACKNOWLEDGE, SOURCE, DESTINATION, COUNT, DMA_COMMAND = 0x00, 0x64, 0x80, 0x88, 0x90, 0x98
START, TO_MEMORY, WITH_INTERRUPT, DMA_DONE = 1, 2, 4, 0x100
BUFFER = 0x40000


def ioctl(fd, request, layout, *fields):
    """Calls with a struct of these fields; the fields as they are then."""
    argument = bytearray(struct.pack(layout, struct.calcsize(layout), *fields))
    fcntl.ioctl(fd, request, argument)
    return struct.unpack(layout, argument)[1:]


def offset_of(device, region):
    return ioctl(device, GET_REGION_INFO, "=IIIIQQ", 0, region, 0, 0, 0)[4]


def main():
    name = os.path.basename(sorted(glob.glob("/sys/bus/pci/devices/*/vfio-dev/*"))[0])
    device = os.open(f"/dev/vfio/devices/{name}", os.O_RDWR)
    iommu = os.open("/dev/iommu", os.O_RDWR)
    ioctl(device, BIND, "=IIiI", 0, iommu, 0)
    _, ioas = ioctl(iommu, IOAS_ALLOC, "=III", 0, 0)
    ioctl(device, ATTACH, "=III", 0, ioas)

    memory = mmap.mmap(-1, 8192)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    iova = 0x100000
    flags = READABLE | WRITEABLE | FIXED_IOVA
    ioctl(iommu, IOAS_MAP, "=IIIIQQQ", flags, ioas, 0, address, len(memory), iova)

    os.pwrite(device, struct.pack("<H", MEMORY_AND_BUS_MASTER), offset_of(device, CONFIG) + COMMAND)
    registers = offset_of(device, 0)
    (identification,) = struct.unpack("<I", os.pread(device, 4, registers + IDENTIFICATION))
    print(f"{name}: identification 0x{identification:08x}")

    interrupt = ctypes.CDLL(None).eventfd(0, 0)
    ioctl(device, SET_IRQS, "=IIIIIi", DATA_EVENTFD | ACTION_TRIGGER, MSI, 0, 1, interrupt)

    def transfer(source, destination, count, command):
        command |= START | WITH_INTERRUPT
        for register, value in ((SOURCE, source), (DESTINATION, destination), (COUNT, count), (DMA_COMMAND, command)):
            os.pwrite(device, struct.pack("<Q", value), registers + register)
        os.read(interrupt, 8)
        os.pwrite(device, struct.pack("<I", DMA_DONE), registers + ACKNOWLEDGE)

    text = b"Copied by the device."
    memory[: len(text)] = text
    transfer(iova, BUFFER, len(text), 0)
    transfer(BUFFER, iova + 4096, len(text), TO_MEMORY)
    print(memory[4096 : 4096 + len(text)].decode())
    ioctl(iommu, IOAS_UNMAP, "=IIQQ", ioas, iova, len(memory))


main()
