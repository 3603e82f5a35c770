/* A plugin for qemu's user emulation: counts the instructions that the guest executes, and writes the count down
 * each time the guest calls getpriority(MARK, number), which no kernel knows. One line a mark: number, count.
 *
 * The names are those of qemu's plugin interface (docs/devel/tcg-plugins in its sources), declared here because
 * distributions do not ship its header. The interface has had several versions; what is used here is in all.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define EXPORTED __attribute__((visibility("default")))
#define MARK UINT64_C(0x6d62636e)

typedef uint64_t plugin_id;
struct block; /* of translated code */
typedef void (*on_translated)(plugin_id, struct block *);
typedef void (*on_executed)(unsigned, void *);
typedef void (*on_syscall)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                           uint64_t, uint64_t);

extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, on_translated);
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct block *, on_executed, int, void *);
extern void qemu_plugin_register_vcpu_syscall_cb(plugin_id, on_syscall);
extern size_t qemu_plugin_tb_n_insns(const struct block *);

EXPORTED int qemu_plugin_version = VERSION;
static uint64_t executed;
static FILE *out;

static void add_block(unsigned cpu, void *instructions) {
  (void)cpu;
  __atomic_fetch_add(&executed, (uint64_t)(uintptr_t)instructions, __ATOMIC_RELAXED);
}

static void watch_block(plugin_id id, struct block *block) {
  (void)id;
  qemu_plugin_register_vcpu_tb_exec_cb(block, add_block, 0, (void *)(uintptr_t)qemu_plugin_tb_n_insns(block));
}

static void write_mark(plugin_id id, unsigned cpu, int64_t call, uint64_t which, uint64_t number, uint64_t a3, uint64_t a4,
                       uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
  (void)id, (void)cpu, (void)call, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
  if (which == MARK) {
    fprintf(out, "%" PRIu64 " %" PRIu64 "\n", number, __atomic_load_n(&executed, __ATOMIC_RELAXED));
    fflush(out);
  }
}

/* The one argument is out=FILE. */
EXPORTED int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
  (void)info;
  if (argc != 1 || strncmp(argv[0], "out=", 4) != 0 || (out = fopen(argv[0] + 4, "w")) == NULL) return 1;
  qemu_plugin_register_vcpu_tb_trans_cb(id, watch_block);
  qemu_plugin_register_vcpu_syscall_cb(id, write_mark);
  return 0;
}
