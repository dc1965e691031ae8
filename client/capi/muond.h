/* muond: the C interface of the optimizer-step service, for training jobs in any language.
 *
 * Lifetime of a job, from one rank:
 *   muond_daemon_start (or an endpoint of your own) -> muond_manifest_* -> muond_client_attach
 *   every step: muond_client_put for each gradient, muond_client_commit, muond_client_wait;
 *   parameters are then new in place
 *   muond_client_detach -> muond_client_destroy -> muond_daemon_stop
 *
 * Conventions
 *   Calls return muond_status; MUOND_OK is 0. After any other value muond_last_message() tells
 *   what and how much, for the calling thread,
 *   until its next call. Nothing throws, aborts or prints.
 *   Option structs begin with struct_size = sizeof(the struct): fields that an older caller
 *   does not know take their defaults, which are
 *   zero unless a field says otherwise. MUOND_INIT(type) gives a zeroed struct with its size.
 *   A client is used by one thread at a time. It must not be used in a child of fork(): calls
 *   there return MUOND_FAILED_PRECONDITION,
 *   and the parent is not disturbed.
 *   Sizes are bytes unless a name says elements. Strings are UTF-8, borrowed for the call.
 *   Steps start at 1.
 *   Only names that begin with muond_ or MUOND_ are defined here.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#define MUOND_INIT(type) \
  type { sizeof(type) }
#else
#define MUOND_INIT(type) ((type){.struct_size = sizeof(type)})
#endif

#define MUOND_API __attribute__((visibility("default")))

/* Grows when something is added; what is here keeps its meaning while the major version is 1. */
#define MUOND_ABI_MAJOR 1
#define MUOND_ABI_MINOR 2

typedef enum muond_status {
  MUOND_OK = 0,
  MUOND_CANCELLED = 1,
  MUOND_UNKNOWN = 2,
  MUOND_INVALID_ARGUMENT = 3,
  MUOND_DEADLINE_EXCEEDED = 4,
  MUOND_NOT_FOUND = 5,
  MUOND_ALREADY_EXISTS = 6,
  MUOND_PERMISSION_DENIED = 7,
  MUOND_RESOURCE_EXHAUSTED = 8,
  MUOND_FAILED_PRECONDITION = 9,
  MUOND_ABORTED = 10,
  MUOND_OUT_OF_RANGE = 11,
  MUOND_UNIMPLEMENTED = 12,
  MUOND_INTERNAL = 13,
  MUOND_UNAVAILABLE = 14,
  MUOND_DATA_LOSS = 15,
  MUOND_UNAUTHENTICATED = 16
} muond_status;

typedef enum muond_type { MUOND_FLOAT32 = 1, MUOND_BFLOAT16 = 2, MUOND_FLOAT16 = 3 } muond_type;
typedef enum muond_rule { MUOND_RULE_MUON = 1, MUOND_RULE_ADAMW = 2 } muond_rule;

/* The factor between the learning rate and an orthogonal update of m rows and n columns. */
typedef enum muond_update_scale {
  MUOND_SCALE_ORIGINAL = 1,        /* sqrt(max(1, m/n)) */
  MUOND_SCALE_MATCH_RMS_ADAMW = 2, /* 0.2 sqrt(max(m, n)) */
  MUOND_SCALE_SQRT_RATIO = 3,      /* sqrt(m/n) */
  MUOND_SCALE_SQRT_MAX = 4,        /* sqrt(max(m, n)) */
  MUOND_SCALE_NONE = 5             /* 1 */
} muond_update_scale;

typedef enum muond_replica_kind {
  MUOND_REPLICA_SAME =
      1, /* replicas hold the same, already reduced gradient: compared by digests at each step */
  MUOND_REPLICA_SUM = 2 /* replicas differ: the owner sums them and divides by `divisor` */
} muond_replica_kind;

typedef enum muond_state_field {
  MUOND_STATE_MOMENTUM = 1,   /* muon: float32, the tensor's shape, row-major */
  MUOND_STATE_EXP_AVG = 2,    /* adamw: the same */
  MUOND_STATE_EXP_AVG_SQ = 3, /* adamw: the same */
  MUOND_STATE_STEP = 4,       /* adamw: one float64 */
  MUOND_STATE_PARAMETER = 5   /* fetch only */
} muond_state_field;

typedef enum muond_slab_kind { MUOND_SLAB_GRADIENT = 4, MUOND_SLAB_PARAMETER = 5 } muond_slab_kind;

typedef enum muond_outcome_kind { MUOND_APPLIED = 1, MUOND_VOID = 2 } muond_outcome_kind;

/* Why a step changed nothing. */
typedef enum muond_void_reason {
  MUOND_VOID_NONE = 0,
  MUOND_VOID_NON_FINITE = 1,      /* `tensor` is the first with a NaN or Inf */
  MUOND_VOID_FOUND_INF = 2,       /* the step itself said so */
  MUOND_VOID_SHEETS_DIFFER = 3,   /* ranks gave different hyper-parameters or different tensors */
  MUOND_VOID_REPLICAS_DIFFER = 4, /* `tensor` is not the same on its replicas */
  MUOND_VOID_RANK_LOST = 5,       /* a rank died; this client can make no further step */
  MUOND_VOID_NOT_WHOLE = 6        /* `tensor` has a gradient on some of its holders only */
} muond_void_reason;

typedef struct muond_manifest muond_manifest;
typedef struct muond_client muond_client;
typedef struct muond_slab muond_slab;
typedef struct muond_daemon muond_daemon;

MUOND_API const char* muond_version(void); /* "0.1.0" */
/* of the library that is loaded */
MUOND_API void muond_abi_version(int32_t* major, int32_t* minor);
/* borrowed until this thread's next call; "" after MUOND_OK */
MUOND_API const char* muond_last_message(void);
/* "INVALID_ARGUMENT"; "?" for no status */
MUOND_API const char* muond_status_name(muond_status status);

/* ---- a daemon of one's own ---------------------------------------------------------------- */

typedef struct muond_daemon_options {
  size_t struct_size;
  /* the muond binary; NULL: MUOND_BIN, else beside this library, else on PATH */
  const char* program;
  /* where its log goes; NULL: kept out of sight, its end is told when the start fails; "-": our
   * stderr */
  const char* log_path;
  double timeout_seconds; /* until it serves; 0: 30 */
  const char* const*
      arguments; /* further arguments of the command line, NULL at the end; NULL: none */
  /* Called by the starting thread about twice a second while it waits, with seconds waited and
   * what it waits for. NULL: silence. */
  void (*progress)(void* context, double seconds, const char* text);
  void* progress_context;
} muond_daemon_options;

/* Starts `muond --standalone`. It ends by itself when this process ends, however it ends. */
MUOND_API muond_status muond_daemon_start(const muond_daemon_options* options,
                                          muond_daemon** daemon);
/* borrowed from the daemon */
MUOND_API const char* muond_daemon_endpoint(const muond_daemon* daemon);
MUOND_API int32_t muond_daemon_pid(const muond_daemon* daemon);
/* Waits until every rank of every job there has left, or it has ended. DEADLINE_EXCEEDED: somebody
 * is still there. */
MUOND_API muond_status muond_daemon_wait(muond_daemon* daemon, double timeout_seconds);
/* Lets it go and waits until it has ended, at most `timeout_seconds` (0: 10), then kills it. Frees
 * `daemon` in any case. */
MUOND_API muond_status muond_daemon_stop(muond_daemon* daemon, double timeout_seconds);

/* ---- what is to be optimised -------------------------------------------------------------- */

typedef struct muond_manifest_options {
  size_t struct_size;
  const char* job; /* unique among the running jobs */
  int32_t world_size;
  int32_t rank;
  /* tensors name one of 0 .. buckets-1; those of one bucket are announced together */
  int32_t buckets;
  /* Since 1.1. Of the GPU in whose memory the blocks lie, "GPU-..."; NULL: host memory. Slabs are device memory then, put takes device
   * (or pinned) pointers, and everything comes in stream order: see muond_client_use_stream. */
  const char* device_uuid;
} muond_manifest_options;

typedef struct muond_coefficients {
  double a, b, c;
} muond_coefficients;

typedef struct muond_group {
  size_t struct_size;
  const char* name;
  muond_rule rule;
  const char* table; /* muon: the coefficient table's name, "custom" for custom_steps */
  const muond_coefficients* custom_steps;
  int32_t custom_step_count;
  int32_t steps;                   /* Newton-Schulz steps; 0: the table's own count */
  muond_update_scale update_scale; /* muon */
} muond_group;

typedef struct muond_tensor {
  size_t struct_size;
  const char* name;
  const int64_t* shape;
  int32_t dims; /* 1 or more; a scalar is a tensor of shape [1] */
  /* its 2-D view: rows = product of the first row_dims, cols = of the rest. 0: 1 */
  int32_t row_dims;
  muond_type parameter_type; /* 0: float32 */
  muond_type gradient_type;  /* 0: float32 */
  int32_t group;
  int32_t bucket;
  /* muon: heights of the matrices that the view's rows are cut into; NULL: one matrix */
  const int64_t* matrix_rows;
  int32_t matrix_rows_count;
} muond_tensor;

typedef struct muond_block {
  size_t struct_size;
  int32_t tensor;
  int32_t dims;
  const int64_t* offset; /* NULL: the whole tensor (extent too) */
  const int64_t* extent;
  muond_replica_kind replica_kind; /* 0: SAME */
  int32_t replica;
  int32_t replicas; /* 0: 1 */
  double divisor;   /* SUM; 0: 1 */
} muond_block;

MUOND_API muond_status muond_manifest_create(const muond_manifest_options* options,
                                             muond_manifest** manifest);
/* The index of what was added, which later structs name, goes to `index` (may be NULL): 0, 1, 2 in
 * the order of the calls. */
MUOND_API muond_status muond_manifest_add_group(muond_manifest* manifest, const muond_group* group,
                                                int32_t* index);
MUOND_API muond_status muond_manifest_add_tensor(muond_manifest* manifest,
                                                 const muond_tensor* tensor, int32_t* index);
/* A rectangle of a tensor that this rank holds. */
MUOND_API muond_status muond_manifest_add_block(muond_manifest* manifest, const muond_block* block,
                                                int32_t* index);
MUOND_API void muond_manifest_destroy(muond_manifest* manifest);

/* ---- a rank's session --------------------------------------------------------------------- */

typedef struct muond_attach_options {
  size_t struct_size;
  const char* endpoint; /* of the daemon; NULL with `echo` */
  const char* token;    /* the job's bearer token, if the daemon asks for one */
  /* 1: no daemon. Every step is p -= lr * (g / loss_scale) here, so that bindings can be tested. */
  int32_t echo;
  int32_t adopt; /* 1: go on with the state that the daemon still holds under the job's name */
  double join_timeout_seconds;   /* until every rank of the job has come; 0: 300 */
  double repair_timeout_seconds; /* how long a daemon that restarts is waited for; 0: 60 */
  /* A random number that the job's ranks share for this try, another one for the next: a rank that asks when the others have
   * been refused is told why at once, and ranks of two runs under one name are kept apart. 0: none. */
  uint64_t attempt;
} muond_attach_options;

/* Blocks until all ranks of the job have attached. Nothing of `manifest` is kept. */
MUOND_API muond_status muond_client_attach(const muond_attach_options* options,
                                           const muond_manifest* manifest, muond_client** client);

typedef struct muond_client_info {
  size_t struct_size;
  uint64_t job_id;
  uint64_t session;
  uint64_t epoch;
  uint64_t last_step; /* the newest step that this client knows the outcome of */
  uint32_t incarnation;
  int32_t blocks;
  int32_t buckets;
  int32_t items;
  uint32_t reconnects;     /* how often the daemon's stepper was lost and found again */
  uint64_t gradient_bytes; /* this rank's slabs */
  uint64_t parameter_bytes;
  uint64_t page_bytes;
} muond_client_info;

MUOND_API muond_status muond_client_get_info(const muond_client* client, muond_client_info* info);

typedef struct muond_block_place {
  size_t struct_size;
  uint64_t size;            /* of the block, either slab */
  uint64_t gradient_offset; /* into the slabs */
  uint64_t parameter_offset;
  int32_t push_gradient; /* 0: another replica's bytes are read, this rank's are only digested */
} muond_block_place;

MUOND_API muond_status muond_client_get_block(const muond_client* client, int32_t block,
                                              muond_block_place* place);

/* Memory shared with the daemon. A slab stays mapped until it is released, longer than its client
 * if need be. */
MUOND_API muond_status muond_client_get_slab(const muond_client* client, muond_slab_kind kind,
                                             muond_slab** slab);
MUOND_API void* muond_slab_data(const muond_slab* slab); /* NULL when it is empty */
MUOND_API uint64_t muond_slab_size(const muond_slab* slab);
MUOND_API void muond_slab_release(muond_slab* slab);

/* ---- a step ------------------------------------------------------------------------------- */

/* The gradient of a block for the step that comes next: dense, row-major, `size` bytes as in
 * muond_block_place; read during the call. Again for the same block before the commit: the later
 * one counts. A tensor without a put has no gradient in this step. */
MUOND_API muond_status muond_client_put(muond_client* client, int32_t block, const void* data,
                                        uint64_t size);
/* Since 1.1. The gradients of these blocks are in their places in the gradient slab, or are written there by work that the stream
 * holds already. Counts as a put. */
MUOND_API muond_status muond_client_placed(muond_client* client, const int32_t* blocks,
                                           int32_t count);
/* Since 1.1, for a rank on a GPU: the cudaStream_t that put, announce, commit and wait_on_stream work behind, until another is
 * named. 0 (NULL) is the default stream. */
MUOND_API muond_status muond_client_use_stream(muond_client* client, void* stream);
/* Since 1.1, after a commit: what the stream holds next sees the new parameters; the host does not wait. The outcome comes from
 * muond_client_wait, before the next step's first put. */
MUOND_API muond_status muond_client_wait_on_stream(muond_client* client);
/* All gradients of the bucket are put: the daemon may look at them. The commit does it for buckets
 * that were not announced. */
MUOND_API muond_status muond_client_announce(muond_client* client, int32_t bucket);

typedef struct muond_scalars {
  double lr, weight_decay, momentum, eps, beta1, beta2;
  int32_t nesterov;
} muond_scalars; /* its size is part of the interface */

typedef struct muond_step {
  size_t struct_size;
  const muond_scalars* groups; /* one for each group of the manifest */
  int32_t group_count;
  int32_t found_inf; /* 1: change nothing */
  double loss_scale; /* gradients are divided by it; 0: 1 */
  double clip_norm;  /* global norm of the job's gradients after the division; 0: no clipping */
} muond_step;

/* Hands the step over. `step` gets its number (may be NULL). */
MUOND_API muond_status muond_client_commit(muond_client* client, const muond_step* options,
                                           uint64_t* step);

typedef struct muond_outcome {
  size_t struct_size;
  uint64_t step;
  muond_outcome_kind kind;
  muond_void_reason reason; /* VOID */
  int32_t tensor;           /* which tensor the reason names, or -1 */
} muond_outcome;

/* Waits for the committed step. DEADLINE_EXCEEDED after `timeout_seconds` (0: no limit): wait
 * again. A VOID step is MUOND_OK here; its text is in muond_last_message(). UNAVAILABLE: the
 * daemon is gone, and every later call says so too. */
MUOND_API muond_status muond_client_wait(muond_client* client, double timeout_seconds,
                                         muond_outcome* outcome);

/* ---- optimizer state, between steps ------------------------------------------------------- */

/* `size` must be the field's size exactly (muond_state_field). */
MUOND_API muond_status muond_client_fetch_state(muond_client* client, int32_t tensor,
                                                muond_state_field field, void* data, uint64_t size);
MUOND_API muond_status muond_client_push_state(muond_client* client, int32_t tensor,
                                               muond_state_field field, const void* data,
                                               uint64_t size);
/* Since 1.2. 1: the calls for state share one connection from now on; 0: no more. For a series of them: a connection takes longer than a small
 * field. Its threads live with it: do not fork meanwhile. */
MUOND_API muond_status muond_client_keep_connection(muond_client* client, int32_t keep);

/* Since 1.2. The same of one of this rank's blocks: dense float32, `size` bytes as in
 * muond_block_place. MUOND_STATE_STEP is not cut into blocks. */
MUOND_API muond_status muond_client_fetch_block_state(muond_client* client, int32_t block,
                                                      muond_state_field field, void* data,
                                                      uint64_t size);
MUOND_API muond_status muond_client_push_block_state(muond_client* client, int32_t block,
                                                     muond_state_field field, const void* data,
                                                     uint64_t size);

/* Leaves the job in order; the last rank to leave ends it. The client can only be destroyed
 * afterwards. */
MUOND_API muond_status muond_client_detach(muond_client* client);
/* Without a detach the daemon takes this rank for dead. */
MUOND_API void muond_client_destroy(muond_client* client);

/* The digest by which replicas are compared. */
MUOND_API uint64_t muond_digest64(const void* data, uint64_t size);

#ifdef __cplusplus
}
#endif
