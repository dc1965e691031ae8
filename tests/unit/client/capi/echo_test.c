/* The C interface, compiled as C, against the echo: no daemon. Prints what failed and returns 1. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "muond.h"

static int failures = 0;
#define EXPECT(condition)                                                     \
  do {                                                                        \
    if (!(condition)) {                                                       \
      ++failures;                                                             \
      printf("%s:%d: %s; last message: %s\n", __FILE__, __LINE__, #condition, \
             muond_last_message());                                           \
    }                                                                         \
  } while (0)

/* Two tensors: "w" [2, 3] under muon, "b" [3] under adamw. */
static muond_manifest* TwoTensors(void) {
  muond_manifest_options options = MUOND_INIT(muond_manifest_options);
  options.job = "echo";
  options.world_size = 1;
  options.buckets = 2;
  muond_manifest* manifest = NULL;
  EXPECT(muond_manifest_create(&options, &manifest) == MUOND_OK);
  muond_group group = MUOND_INIT(muond_group);
  group.name = "matrices";
  group.rule = MUOND_RULE_MUON;
  group.table = "jordan";
  group.steps = 5;
  int32_t index = -1;
  EXPECT(muond_manifest_add_group(manifest, &group, &index) == MUOND_OK && index == 0);
  muond_group other = MUOND_INIT(muond_group);
  other.name = "rest";
  other.rule = MUOND_RULE_ADAMW;
  EXPECT(muond_manifest_add_group(manifest, &other, &index) == MUOND_OK && index == 1);
  const int64_t w_shape[2] = {2, 3}, b_shape[1] = {3};
  muond_tensor tensor = MUOND_INIT(muond_tensor);
  tensor.name = "w";
  tensor.shape = w_shape;
  tensor.dims = 2;
  EXPECT(muond_manifest_add_tensor(manifest, &tensor, &index) == MUOND_OK && index == 0);
  tensor.name = "b";
  tensor.shape = b_shape;
  tensor.dims = 1;
  tensor.group = 1;
  tensor.bucket = 1;
  EXPECT(muond_manifest_add_tensor(manifest, &tensor, &index) == MUOND_OK && index == 1);
  for (int32_t t = 0; t < 2; ++t) {
    muond_block block = MUOND_INIT(muond_block);
    block.tensor = t;
    EXPECT(muond_manifest_add_block(manifest, &block, NULL) == MUOND_OK);
  }
  return manifest;
}

static muond_client* Attach(void) {
  muond_manifest* manifest = TwoTensors();
  muond_attach_options options = MUOND_INIT(muond_attach_options);
  options.echo = 1;
  muond_client* client = NULL;
  EXPECT(muond_client_attach(&options, manifest, &client) == MUOND_OK);
  muond_manifest_destroy(manifest);
  return client;
}

static void StepsMoveParametersByTheirGradients(void) {
  muond_client* client = Attach();
  muond_slab* slab = NULL;
  EXPECT(muond_client_get_slab(client, MUOND_SLAB_PARAMETER, &slab) == MUOND_OK);
  muond_block_place w = MUOND_INIT(muond_block_place), b = MUOND_INIT(muond_block_place);
  EXPECT(muond_client_get_block(client, 0, &w) == MUOND_OK && w.size == 24);
  EXPECT(muond_client_get_block(client, 1, &b) == MUOND_OK && b.size == 12);
  float* parameter_w = (float*)((char*)muond_slab_data(slab) + w.parameter_offset);
  float* parameter_b = (float*)((char*)muond_slab_data(slab) + b.parameter_offset);
  parameter_w[5] = 10;
  parameter_b[0] = 7;

  const float gradient[6] = {0, 0, 0, 0, 0, 4};
  EXPECT(muond_client_put(client, 0, gradient, 20) == MUOND_INVALID_ARGUMENT);
  EXPECT(strstr(muond_last_message(), "20 bytes") != NULL);
  EXPECT(muond_client_put(client, 0, gradient, sizeof(gradient)) == MUOND_OK);
  EXPECT(muond_client_announce(client, 0) == MUOND_OK);
  EXPECT(muond_client_put(client, 0, gradient, 24) == MUOND_FAILED_PRECONDITION);
  muond_scalars groups[2] = {{.lr = 0.5}, {.lr = 0.5}};
  muond_step step = MUOND_INIT(muond_step);
  step.groups = groups;
  step.group_count = 1;
  EXPECT(muond_client_commit(client, &step, NULL) == MUOND_INVALID_ARGUMENT);
  step.group_count = 2;
  step.loss_scale = 2;
  uint64_t number = 0;
  EXPECT(muond_client_commit(client, &step, &number) == MUOND_OK && number == 1);
  EXPECT(muond_client_commit(client, &step, &number) == MUOND_FAILED_PRECONDITION);
  muond_outcome outcome = MUOND_INIT(muond_outcome);
  EXPECT(muond_client_wait(client, 1, &outcome) == MUOND_OK);
  EXPECT(outcome.kind == MUOND_APPLIED && outcome.step == 1);
  EXPECT(parameter_w[5] == 9); /* 10 - 0.5 * 4 / 2 */
  EXPECT(parameter_b[0] == 7); /* no gradient: untouched */
  EXPECT(muond_client_wait(client, 1, &outcome) == MUOND_FAILED_PRECONDITION);

  const float bad[6] = {0, NAN, 0, 0, 0, 0};
  EXPECT(muond_client_put(client, 0, bad, sizeof(bad)) == MUOND_OK);
  EXPECT(muond_client_commit(client, &step, &number) == MUOND_OK && number == 2);
  EXPECT(muond_client_wait(client, 1, &outcome) == MUOND_OK);
  EXPECT(outcome.kind == MUOND_VOID && outcome.reason == MUOND_VOID_NON_FINITE &&
         outcome.tensor == 0);
  EXPECT(strstr(muond_last_message(), "of w ") != NULL);
  EXPECT(parameter_w[5] == 9);

  EXPECT(muond_client_detach(client) == MUOND_OK);
  muond_client_destroy(client);
  EXPECT(parameter_w[5] == 9); /* the slab outlives the client */
  muond_slab_release(slab);
}

static void StateGoesInAndOut(void) {
  muond_client* client = Attach();
  float momentum[6] = {1, 2, 3, 4, 5, 6}, back[6] = {0};
  EXPECT(muond_client_fetch_state(client, 0, MUOND_STATE_MOMENTUM, back, 24) == MUOND_OK &&
         back[5] == 0);
  EXPECT(muond_client_push_state(client, 0, MUOND_STATE_MOMENTUM, momentum, 24) == MUOND_OK);
  EXPECT(muond_client_fetch_state(client, 0, MUOND_STATE_MOMENTUM, back, 24) == MUOND_OK &&
         back[5] == 6);
  EXPECT(muond_client_push_state(client, 0, MUOND_STATE_EXP_AVG, momentum, 24) ==
         MUOND_INVALID_ARGUMENT);
  EXPECT(muond_client_push_state(client, 0, MUOND_STATE_MOMENTUM, momentum, 12) ==
         MUOND_INVALID_ARGUMENT);
  double count = 3;
  EXPECT(muond_client_keep_connection(client, 1) == MUOND_OK);
  EXPECT(muond_client_push_state(client, 1, MUOND_STATE_STEP, &count, 8) == MUOND_OK);
  EXPECT(muond_client_keep_connection(client, 0) == MUOND_OK);
  muond_client_destroy(client);
}

static void StateOfABlockGoesInAndOut(void) {
  muond_client* client = Attach();
  const float momentum[6] = {1, 2, 3, 4, 5, 6};
  float back[6] = {0};
  EXPECT(muond_client_push_block_state(client, 0, MUOND_STATE_MOMENTUM, momentum, 24) == MUOND_OK);
  EXPECT(muond_client_fetch_state(client, 0, MUOND_STATE_MOMENTUM, back, 24) == MUOND_OK);
  EXPECT(back[0] == 1 && back[5] == 6);
  back[5] = 0;
  EXPECT(muond_client_fetch_block_state(client, 0, MUOND_STATE_MOMENTUM, back, 24) == MUOND_OK &&
         back[5] == 6);
  EXPECT(muond_client_push_block_state(client, 0, MUOND_STATE_MOMENTUM, momentum, 8) ==
         MUOND_INVALID_ARGUMENT);
  EXPECT(strstr(muond_last_message(), "[2,3] has 24 bytes, 8 were given") != NULL);
  EXPECT(muond_client_fetch_block_state(client, 9, MUOND_STATE_MOMENTUM, back, 24) ==
         MUOND_INVALID_ARGUMENT);
  EXPECT(strstr(muond_last_message(), "block 9") != NULL);
  EXPECT(muond_client_fetch_block_state(client, 1, MUOND_STATE_STEP, back, 8) ==
         MUOND_INVALID_ARGUMENT); /* the count is not cut into blocks */
  EXPECT(muond_client_fetch_block_state(client, 0, MUOND_STATE_MOMENTUM, NULL, 24) ==
         MUOND_INVALID_ARGUMENT);
  muond_client_destroy(client);
}

/* A caller that was compiled before a field was added gives a smaller struct. */
static void AnOlderCallersStructIsUnderstood(void) {
  muond_client* client = Attach();
  struct {
    size_t struct_size;
    uint64_t job_id;
    uint64_t canary;
  } small = {.struct_size = 16, .canary = 42};
  EXPECT(muond_client_get_info(client, (muond_client_info*)&small) == MUOND_OK);
  EXPECT(small.job_id != 0 && small.canary == 42);
  muond_client_info unsized = {0};
  EXPECT(muond_client_get_info(client, &unsized) == MUOND_INVALID_ARGUMENT);
  EXPECT(strstr(muond_last_message(), "struct_size") != NULL);
  muond_client_destroy(client);
}

static void NullIsRefusedNotFollowed(void) {
  EXPECT(muond_client_attach(NULL, NULL, NULL) == MUOND_INVALID_ARGUMENT);
  EXPECT(muond_client_put(NULL, 0, NULL, 0) == MUOND_INVALID_ARGUMENT);
  EXPECT(muond_manifest_add_tensor(NULL, NULL, NULL) == MUOND_INVALID_ARGUMENT);
  EXPECT(muond_slab_data(NULL) == NULL);
  muond_client_destroy(NULL);
  muond_manifest_destroy(NULL);
}

static void AForkedChildIsRefused(void) {
  muond_client* client = Attach();
  const pid_t child = fork();
  if (child == 0) _exit(muond_client_announce(client, 0) == MUOND_FAILED_PRECONDITION ? 0 : 1);
  int status = 1;
  waitpid(child, &status, 0);
  EXPECT(status == 0);
  EXPECT(muond_client_announce(client, 0) == MUOND_OK);
  muond_client_destroy(client);
}

static void ADaemonThatCannotStartSaysWhy(void) {
  muond_daemon_options options = MUOND_INIT(muond_daemon_options);
  muond_daemon* daemon = NULL;
  options.program = "/nowhere/muond";
  EXPECT(muond_daemon_start(&options, &daemon) == MUOND_NOT_FOUND && daemon == NULL);
  EXPECT(strstr(muond_last_message(), "/nowhere/muond") != NULL);
  options.program = "/bin/false";
  EXPECT(muond_daemon_start(&options, &daemon) == MUOND_UNAVAILABLE);
  EXPECT(strstr(muond_last_message(), "exit code 1") != NULL);
}

int main(void) {
  int32_t major = 0, minor = -1;
  muond_abi_version(&major, &minor);
  EXPECT(major == MUOND_ABI_MAJOR && minor >= MUOND_ABI_MINOR);
  EXPECT(strcmp(muond_status_name(MUOND_INVALID_ARGUMENT), "INVALID_ARGUMENT") == 0);
  StepsMoveParametersByTheirGradients();
  StateGoesInAndOut();
  StateOfABlockGoesInAndOut();
  AnOlderCallersStructIsUnderstood();
  NullIsRefusedNotFollowed();
  AForkedChildIsRefused();
  ADaemonThatCannotStartSaysWhy();
  if (failures == 0) printf("ok\n");
  return failures == 0 ? 0 : 1;
}
