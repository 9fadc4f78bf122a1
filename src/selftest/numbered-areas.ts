// Runs in a browser.
/** How random programs name what is mapped: the number of an area, and an offset in it, in place of an IOVA (reference 4.1). */
import { type Call, Ioas } from "../iommufd/index.ts";
import { ACCESS_SYZ, type Command } from "../uapi/index.ts";

/** What is meant by an IOVA: with SYZ, an offset in the area of a number; 0 if there is no such area. */
export function iovaOf(ioas: Ioas, flags: number, iova: bigint): bigint {
  if ((flags & ACCESS_SYZ) === 0) return iova;
  const area = ioas.space.areas()[Number(BigInt.asUintN(32, iova))];
  return area === undefined ? 0n : area.start + iova / 2n ** 32n;
}

/** SYZ counts for the source of a COPY too, and is no flag of it then. */
export function prepareCopy({ context, command }: Call<Command<"IOAS_COPY">>): void {
  const { flags, src_iova: iova, src_ioas_id: id } = command;
  if ((flags & ACCESS_SYZ) === 0) return;
  command.flags = flags & ~ACCESS_SYZ;
  const source = context.objects.list().find((object) => object.id === id);
  if (source instanceof Ioas) command.src_iova = iovaOf(source, flags, iova);
}
