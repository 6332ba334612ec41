/* Preloaded, it hides from a process every instruction set beyond AVX2 and FMA (AVX-512, VNNI, AMX): CPUID
 * faults (arch_prctl(2), ARCH_SET_CPUID) and the fault's handler answers with those bits cleared. Libraries
 * that ask the CPU what it has then behave as on Lambda's x86 hosts, which have AVX2 alone. */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <cpuid.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define BIT(n) (1u << (n))

static int allow_cpuid(unsigned long on) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, on); }

static void answer(int signal_number, siginfo_t *info, void *context) {
  greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
  const uint8_t *instruction = (const uint8_t *)r[REG_RIP];
  (void)info;
  if (instruction[0] != 0x0f || instruction[1] != 0xa2) { /* a true segmentation fault */
    signal(signal_number, SIG_DFL);
    return;
  }
  uint32_t leaf = r[REG_RAX], part = r[REG_RCX], a, b, c, d;
  allow_cpuid(1);
  __cpuid_count(leaf, part, a, b, c, d);
  allow_cpuid(0);
  if (leaf == 7 && part == 0) {
    b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
    c &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));
    d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));
  } else if (leaf == 7 && part == 1) {
    a &= ~(BIT(4) | BIT(5) | BIT(21) | BIT(23));
    d &= ~(BIT(4) | BIT(5) | BIT(8) | BIT(10) | BIT(19));
  } else if (leaf == 0xd && part == 0) {
    a &= ~(BIT(5) | BIT(6) | BIT(7) | BIT(17) | BIT(18));
  }
  r[REG_RAX] = a, r[REG_RBX] = b, r[REG_RCX] = c, r[REG_RDX] = d;
  r[REG_RIP] += 2;
}

__attribute__((constructor)) static void hide(void) {
  struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
  if (sigaction(SIGSEGV, &action, NULL) || allow_cpuid(0)) {
    fputs("avx2_only: this machine's CPUID does not fault\n", stderr);
    _exit(3);
  }
}
