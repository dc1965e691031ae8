/* muond_kernels: the optimizer's mathematics as a library of its own. No daemon, no process, no network.
 *
 * Newton-Schulz orthogonalisation and the whole Muon step, for lists of matrices, on CUDA devices and on the CPU.
 * A call takes a list: matrices of any shapes run together. Nothing is copied to or from the host.
 *
 * Matrices are row-major: `ld` elements between rows, consecutive elements in a row.
 * CUDA: work is enqueued on the caller's stream and the call returns; outputs are ready when the stream gets there.
 *       Every pointer is device memory and must live until then. Streams in capture are welcome once the same call has
 *       run outside a capture.
 * CPU:  the call returns when the work is done.
 * Threads: one caller at a time per engine and stream.
 * Errors: every function returns a muond_kernels_status; muond_kernels_message() has this thread's last text.
 * ABI: structs begin with struct_size, set by the caller to sizeof; fields are only ever added at the end.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MUOND_KERNELS_ABI_MAJOR 1
#define MUOND_KERNELS_ABI_MINOR 2

/* The numbers are those of the gRPC canonical codes. */
typedef int32_t muond_kernels_status;
#define MUOND_KERNELS_OK 0
#define MUOND_KERNELS_INVALID_ARGUMENT 3
#define MUOND_KERNELS_NOT_FOUND 5
#define MUOND_KERNELS_RESOURCE_EXHAUSTED 8
#define MUOND_KERNELS_INTERNAL 13
#define MUOND_KERNELS_UNAVAILABLE 14
#define MUOND_KERNELS_DATA_LOSS 15

#define MUOND_KERNELS_FLOAT32 1
#define MUOND_KERNELS_BFLOAT16 2
#define MUOND_KERNELS_FLOAT16 3

/* The factor between learning rate and update of an m x n parameter. */
#define MUOND_KERNELS_SCALE_ORIGINAL 1        /* sqrt(max(1, m/n)) */
#define MUOND_KERNELS_SCALE_MATCH_RMS_ADAMW 2 /* 0.2 sqrt(max(m, n)) */
#define MUOND_KERNELS_SCALE_SQRT_RATIO 3      /* sqrt(m/n) */
#define MUOND_KERNELS_SCALE_SQRT_MAX 4        /* sqrt(max(m, n)) */
#define MUOND_KERNELS_SCALE_NONE 5            /* 1 */

typedef struct muond_kernels muond_kernels; /* an engine: one device */

typedef struct {
  size_t struct_size;
  int32_t cuda_device; /* as this process's CUDA counts; -1: the CPU */
} muond_kernels_options;

/* Which polynomial: a table by name ("jordan", "polar_express_105", ...), or rows of a, b, c when name is null.
 * steps <= 0: the table's own count. */
typedef struct {
  size_t struct_size;
  const char* name;
  const double* rows;
  size_t row_count;
  int32_t steps;
} muond_kernels_table;

typedef struct {
  size_t struct_size;
  void* data;
  int64_t rows, cols, ld;
  int32_t dtype;
} muond_kernels_matrix;

typedef struct {
  size_t struct_size;
  double lr, weight_decay, momentum, eps;
  double gradient_scale; /* multiplies the gradient: 1 / loss scale, a clip factor */
  int32_t nesterov;      /* 0 or 1 */
  int32_t scale;         /* MUOND_KERNELS_SCALE_ */
  /* Since 1.1. Where not null: memory of the device with the value to use when the work runs. */
  const float* lr_at;
  const float* gradient_scale_at;
} muond_kernels_muon_options;

typedef struct {
  size_t struct_size;
  muond_kernels_matrix gradient;
  muond_kernels_matrix parameter; /* updated in place */
  float* momentum;                /* [rows, cols] dense, updated in place */
} muond_kernels_muon_item;

void muond_kernels_abi_version(int32_t* major, int32_t* minor);
const char* muond_kernels_message(void);

muond_kernels_status muond_kernels_create(const muond_kernels_options* options,
                                          muond_kernels** engine);
void muond_kernels_destroy(muond_kernels* engine);

/* out[i] <- the orthogonalised in[i] / max(||in[i]||_F, eps). in[i] and out[i] may be the same memory.
 * `workspace` is device memory (host memory on the CPU), 256-byte aligned; a smaller one than _workspace says for
 * `limit_bytes` = UINT64_MAX runs the list in more rounds, down to what the largest matrix needs. */
muond_kernels_status muond_kernels_newton_schulz_workspace(muond_kernels* engine,
                                                           const muond_kernels_table* table,
                                                           const muond_kernels_matrix* in,
                                                           size_t count, uint64_t limit_bytes,
                                                           uint64_t* bytes);
muond_kernels_status muond_kernels_newton_schulz(muond_kernels* engine, void* cuda_stream,
                                                 const muond_kernels_table* table, double eps,
                                                 const muond_kernels_matrix* in,
                                                 const muond_kernels_matrix* out, size_t count,
                                                 void* workspace, uint64_t bytes);

/* Momentum, Newton-Schulz, decay and update of every item, in place. */
muond_kernels_status muond_kernels_muon_step_workspace(muond_kernels* engine,
                                                       const muond_kernels_table* table,
                                                       const muond_kernels_muon_item* items,
                                                       size_t count, uint64_t limit_bytes,
                                                       uint64_t* bytes);
muond_kernels_status muond_kernels_muon_step(muond_kernels* engine, void* cuda_stream,
                                             const muond_kernels_table* table,
                                             const muond_kernels_muon_options* options,
                                             const muond_kernels_muon_item* items, size_t count,
                                             void* workspace, uint64_t bytes);

/* The same step, prepared once for a list of parameters and enqueued every step: on CUDA a graph, so that the host's part does
 * not grow with the list. Since 1.1.
 * Gradients may lie elsewhere at every step. Item i's gradient lies gradient.data (an offset in bytes, a multiple of 16)
 * behind the address number gradient_from[i] of those that each step gives; the addresses are multiples of 16.
 * Engine, workspace, parameters and momenta must outlive the plan, and a plan's steps must follow each other (one stream). */
typedef struct muond_kernels_muon_plan muond_kernels_muon_plan;

muond_kernels_status muond_kernels_muon_plan_workspace(muond_kernels* engine,
                                                       const muond_kernels_table* table,
                                                       const muond_kernels_muon_item* items,
                                                       size_t count, size_t addresses,
                                                       uint64_t limit_bytes, uint64_t* bytes);
muond_kernels_status muond_kernels_muon_plan_create(muond_kernels* engine,
                                                    const muond_kernels_table* table,
                                                    const muond_kernels_muon_item* items,
                                                    const uint32_t* gradient_from, size_t count,
                                                    size_t addresses, void* workspace,
                                                    uint64_t bytes, muond_kernels_muon_plan** plan);
muond_kernels_status muond_kernels_muon_plan_step(muond_kernels_muon_plan* plan, void* cuda_stream,
                                                  const muond_kernels_muon_options* options,
                                                  const void* const* gradients, size_t addresses);
/* Waits for the plan's work. */
void muond_kernels_muon_plan_destroy(muond_kernels_muon_plan* plan);

/* What a gradient is like before a step uses it: how many elements are NaN or Inf, and, with `want_norm`, its sum of squares,
 * whose bits do not depend on the order of additions. Since 1.2.
 * measurements[i] is MUOND_KERNELS_MEASUREMENT_BYTES of memory that the host reads and the device writes (CUDA: pinned), aligned
 * to 8, filled when the stream gets there; muond_kernels_measured then reads it: non_finite[i] of each, and the sum of all squares. */
#define MUOND_KERNELS_MEASUREMENT_BYTES 168
muond_kernels_status muond_kernels_measure(muond_kernels* engine, void* cuda_stream,
                                           const muond_kernels_matrix* matrices, size_t count,
                                           int32_t want_norm, void* measurements);
double muond_kernels_measured(const void* measurements, size_t count, uint64_t* non_finite);

/* AdamW with bias correction and decoupled decay, as torch.optim.AdamW's, of every item, in place. Since 1.2.
 * The workspace is device memory, 256-byte aligned, and stays until the stream has passed. */
typedef struct {
  size_t struct_size;
  double lr, weight_decay, beta1, beta2, eps;
  double gradient_scale; /* multiplies the gradient */
} muond_kernels_adamw_options;

typedef struct {
  size_t struct_size;
  muond_kernels_matrix gradient;
  muond_kernels_matrix parameter; /* updated in place */
  float* exp_avg;                 /* [rows, cols] dense, updated in place, as is exp_avg_sq */
  float* exp_avg_sq;
  double* step; /* device memory: steps done, counted in place */
} muond_kernels_adamw_item;

#define MUOND_KERNELS_ADAMW_WORKSPACE_BYTES 256
muond_kernels_status muond_kernels_adamw_step(muond_kernels* engine, void* cuda_stream,
                                              const muond_kernels_adamw_options* options,
                                              const muond_kernels_adamw_item* items, size_t count,
                                              void* workspace, uint64_t bytes);

#ifdef __cplusplus
}
#endif
