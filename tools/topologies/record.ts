/**
 * Records random topologies from a real kernel, as JSON lines like those of src/machine/topology/recorded.test-data.jsonl:
 *
 *     npx tsx tools/topologies/record.ts RUNNER DIR FIRST LAST >> src/machine/topology/recorded.test-data.jsonl
 *
 * `RUNNER DIR PROGRAM` boots the kernel that lies in DIR under QEMU with the devices that QEMU_ARGS names, runs PROGRAM there
 * and prints what it prints.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { generateTopology } from "./generate.ts";

const IOMMU = "-machine q35,kernel-irqchip=split -device intel-iommu,caching-mode=on,intremap=on";

/** Makes two virtual functions of each function that can have them. */
const VIRTUAL_FUNCTIONS = `echo 1 > /sys/module/vfio_pci/parameters/enable_sriov
for d in /sys/bus/pci/devices/*; do
  if [ -e $d/sriov_totalvfs ]; then
    echo vfio-pci > $d/driver_override
    echo \${d##*/} > /sys/bus/pci/drivers/vfio-pci/bind
    echo 2 > $d/sriov_numvfs
  fi
done`;

/** Stands in for QEMU: adds kernel parameters, and puts the runner's own device on bus 0 where there are several. */
const QEMU = `#!/bin/bash
for argument; do
  case $argument in
    console=*) argument="$argument $KERNEL_PARAMETERS" ;;
    virtio-serial-pci) argument=virtio-serial-pci,bus=pcie.0 ;;
  esac
  arguments+=("$argument")
done
PATH=\${PATH#*:} exec qemu-system-x86_64 "\${arguments[@]}"
`;

function main([runner, directory, first, last]: readonly string[]): void {
  const folder = mkdtempSync(join(tmpdir(), "topologies-"));
  try {
    const recorder = join(folder, "recorder");
    execFileSync("cc", ["-O2", "-static", "-o", recorder, join(import.meta.dirname, "recorder.c")]);
    writeFileSync(join(folder, "qemu-system-x86_64"), QEMU);
    chmodSync(join(folder, "qemu-system-x86_64"), 0o755);
    for (let seed = Number(first); seed <= Number(last); seed++) {
      const { name, qemu, kernel } = generateTopology(seed);
      const { stdout } = spawnSync(runner, [directory, recorder], {
        encoding: "utf8",
        env: {
          ...process.env,
          PATH: `${folder}:${process.env.PATH}`,
          QEMU_ARGS: `${IOMMU} ${qemu}`,
          KERNEL_PARAMETERS: kernel,
          GUEST_PRE: VIRTUAL_FUNCTIONS,
        },
      });
      if (!stdout.startsWith('{"devices"')) {
        process.stderr.write(`${name}: no answer: ${qemu}\n`);
        continue;
      }
      const { devices, groups } = JSON.parse(stdout) as { devices: object[]; groups: object[] };
      process.stdout.write(`${JSON.stringify({ name, qemu, ...(kernel ? { kernel } : {}), devices, groups })}\n`);
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
}

main(process.argv.slice(2));
