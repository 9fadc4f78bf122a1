// Runs in a browser.
/**
 * Linux error numbers, and the one way in which a refusal travels.
 *
 * What a client does wrong is thrown as a {@link Refusal}: the errno that Linux
 * gives, and the reason as a closure. The closure is made where the errno is
 * decided, so it can name the rule and the object; it runs only if somebody
 * asks (`uiommu run --explain`). A Refusal is not an Error on purpose: taking a
 * stack trace costs more than the whole call. Our own bugs are thrown by
 * `assert`, never as a Refusal.
 */
export const EPERM = 1;
export const ENOENT = 2;
export const ESRCH = 3;
export const EINTR = 4;
export const EIO = 5;
export const ENXIO = 6;
export const E2BIG = 7;
export const EBADF = 9;
export const EAGAIN = 11;
export const ENOMEM = 12;
export const EACCES = 13;
export const EFAULT = 14;
export const EBUSY = 16;
export const EEXIST = 17;
export const ENODEV = 19;
export const ENOTDIR = 20;
export const EINVAL = 22;
export const EMFILE = 24;
export const ENOTTY = 25;
export const EFBIG = 27;
export const ENOSPC = 28;
export const ESPIPE = 29;
export const ERANGE = 34;
export const EDEADLK = 35;
export const ENOSYS = 38;
export const EBADE = 52;
export const EOVERFLOW = 75;
export const EBADFD = 77;
export const EMSGSIZE = 90;
export const EOPNOTSUPP = 95;
export const EADDRINUSE = 98;
export const ETIMEDOUT = 110;
export const EPROBE_DEFER = 517;

const names: ReadonlyMap<number, string> = new Map(
  Object.entries({
    EPERM,
    ENOENT,
    ESRCH,
    EINTR,
    EIO,
    ENXIO,
    E2BIG,
    EBADF,
    EAGAIN,
    ENOMEM,
    EACCES,
    EFAULT,
    EBUSY,
    EEXIST,
    ENODEV,
    ENOTDIR,
    EINVAL,
    EMFILE,
    ENOTTY,
    EFBIG,
    ENOSPC,
    ESPIPE,
    ERANGE,
    EDEADLK,
    ENOSYS,
    EBADE,
    EOVERFLOW,
    EBADFD,
    EMSGSIZE,
    EOPNOTSUPP,
    EADDRINUSE,
    ETIMEDOUT,
    EPROBE_DEFER,
  }).map(([name, value]) => [value, name]),
);

/** The name of an error number: `errnoName(22)` is `"EINVAL"`; an unknown one is `"errno 999"`. */
export function errnoName(errno: number): string {
  return names.get(errno) ?? `errno ${errno}`;
}

/** What a client did wrong, as Linux would answer it. Thrown, caught at the edge where the errno leaves. */
export class Refusal {
  /** Positive, as user space sees it after a return of -1. */
  readonly errno: number;
  private readonly why: () => string;

  constructor(errno: number, why: () => string) {
    this.errno = errno;
    this.why = why;
  }

  /** One sentence that names the rule and the object, for people. */
  get reason(): string {
    return this.why();
  }

  toString(): string {
    return `${errnoName(this.errno)}: ${this.reason}`;
  }
}

/** Refuses a client's request. Use as a statement: `if (flags !== 0) refuse(EOPNOTSUPP, () => "…")`. */
export function refuse(errno: number, why: () => string): never {
  throw new Refusal(errno, why);
}
