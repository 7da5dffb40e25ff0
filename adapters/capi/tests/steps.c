/* What tests/from_c.rs runs: steps of numbers that it hands over, and every way for a call to fail.
 *
 *   steps cpu|cuda ELEMENT ROWS CLASSES STRIDE in_place|apart   reads counts, logits and labels from
 *                                       the standard input, writes summary, gradient, row losses
 *                                       and hits to the standard output
 *   steps errors | cuda-errors | no-driver | current | example  ends with 0 where all is as it must be
 */
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ala_loss.h"

/* Its step on a device is run here, beside what gives it device memory. */
#define main training_step_main
#include "../examples/training_step.c"
#undef main

static int failures;

/* Holds a status, and a part of the text where there is one, against what they must be. */
static void expect_at(int line, AlaStatus got, AlaStatus wanted, const char *part) {
  const char *text = got == ALA_STATUS_OK ? "" : ala_last_error();
  if (got != wanted || (part && !strstr(text, part))) {
    fprintf(stderr, "line %d: status %d (%s), and not %d (%s)\n", line, (int)got, text, (int)wanted,
            part ? part : "");
    failures++;
  }
}
#define EXPECT(got, wanted, part) expect_at(__LINE__, got, wanted, part)

static void must_at(int line, int holds) {
  if (!holds) {
    fprintf(stderr, "line %d: it does not hold\n", line);
    failures++;
  }
}
#define MUST(holds) must_at(__LINE__, holds)

/* The driver, as a program has it that does not link it. */
typedef int (*Driver)();
static void *driver_library;

static Driver driver(const char *name) {
  union {
    void *object;
    Driver function;
  } symbol;
  if (!driver_library) driver_library = dlopen("libcuda.so.1", RTLD_NOW);
  symbol.object = driver_library ? dlsym(driver_library, name) : NULL;
  if (!symbol.object) {
    fprintf(stderr, "no %s in the driver\n", name);
    exit(2);
  }
  return symbol.function;
}

static int called(int result) {
  if (result != 0) {
    fprintf(stderr, "CUresult %d\n", result);
    exit(2);
  }
  return result;
}

static uint64_t on_device(const void *from, size_t bytes) {
  int (*allocate)(uint64_t *, size_t) = (int (*)(uint64_t *, size_t))driver("cuMemAlloc_v2");
  int (*copy)(uint64_t, const void *, size_t) =
      (int (*)(uint64_t, const void *, size_t))driver("cuMemcpyHtoD_v2");
  uint64_t address = 0;
  called(allocate(&address, bytes));
  called(copy(address, from, bytes));
  return address;
}

static void to_host(void *to, uint64_t from, size_t bytes) {
  int (*copy)(void *, uint64_t, size_t) = (int (*)(void *, uint64_t, size_t))driver("cuMemcpyDtoH_v2");
  called(copy(to, from, bytes));
}

/* The primary context of device 0, made current as the CUDA runtime does. */
static void *primary(void) {
  int (*init)(unsigned) = (int (*)(unsigned))driver("cuInit");
  int (*retain)(void **, int) = (int (*)(void **, int))driver("cuDevicePrimaryCtxRetain");
  int (*set)(void *) = (int (*)(void *))driver("cuCtxSetCurrent");
  void *context = NULL;
  called(init(0));
  called(retain(&context, 0));
  called(set(context));
  return context;
}

static void *current(void) {
  int (*get)(void **) = (int (*)(void **))driver("cuCtxGetCurrent");
  void *context = NULL;
  called(get(&context));
  return context;
}

static void *new_stream(void) {
  int (*create)(void **, unsigned) = (int (*)(void **, unsigned))driver("cuStreamCreate");
  void *stream = NULL;
  called(create(&stream, 1)); /* It does not wait for the default stream. */
  return stream;
}

static void *filled(size_t bytes, int with) {
  void *memory = malloc(bytes + 1);
  if (!memory) exit(2);
  return memset(memory, with, bytes);
}

static void *read_in(size_t bytes) {
  void *memory = filled(bytes, 0);
  if (fread(memory, 1, bytes, stdin) != bytes) exit(2);
  return memory;
}

static AlaLoss *loss_of(AlaLossOptions options, const uint64_t *counts, size_t classes) {
  AlaLoss *loss = NULL;
  options.size = sizeof options;
  EXPECT(ala_loss_create(&options, counts, classes, &loss), ALA_STATUS_OK, NULL);
  return loss;
}

static int step(int on_cuda, char **words) {
  static const size_t sizes[] = {4, 2, 2, 8};
  uint32_t element = (uint32_t)atoi(words[0]);
  size_t rows = (size_t)atoi(words[1]), classes = (size_t)atoi(words[2]);
  size_t stride = (size_t)atoi(words[3]), size = sizes[element], real = element == 3 ? 8 : 4;
  int in_place = !strcmp(words[4], "in_place");
  size_t bytes = size * stride * rows;
  uint64_t *counts = read_in(sizeof *counts * classes);
  char *logits = read_in(bytes);
  int64_t *labels = read_in(sizeof *labels * rows);
  void *gradient = in_place ? logits : filled(bytes, 77);
  void *row_losses = filled(real * rows, 77);
  uint8_t *hits = filled(rows, 77);
  AlaSummary summary;
  AlaLossOptions options = {.objective = ALA_OBJECTIVE_ALA, .scale = 30, .has_ignore_label = 1};
  AlaLoss *loss;
  options.ignore_label = -100;
  loss = loss_of(options, counts, classes);
  if (!on_cuda) {
    AlaCpuStep step = {.size = sizeof step, .element = element, .rows = rows, .logits = logits};
    step.labels = labels;
    step.gradient = gradient;
    step.logits_stride = step.gradient_stride = stride;
    step.row_losses = row_losses;
    step.hits = hits;
    EXPECT(ala_evaluate(loss, &step, &summary), ALA_STATUS_OK, NULL);
  } else {
    AlaCudaLoss *bound = NULL;
    AlaCudaWorkspace *workspace = NULL;
    AlaCudaStep step = {.size = sizeof step, .element = element, .rows = rows};
    AlaSummary polled;
    void *context = primary(), *stream = new_stream();
    uint32_t ready = 1;
    float reduced = 0;
    EXPECT(ala_cuda_bind(loss, 0, &bound), ALA_STATUS_OK, NULL);
    EXPECT(ala_loss_destroy(loss), ALA_STATUS_OK, NULL); /* The bound one stays. */
    loss = NULL;
    EXPECT(ala_cuda_load(bound, element), ALA_STATUS_OK, NULL);
    EXPECT(ala_cuda_workspace_create(bound, rows, &workspace), ALA_STATUS_OK, NULL);
    step.logits = on_device(logits, bytes);
    step.labels = on_device(labels, sizeof *labels * rows);
    step.gradient = in_place ? step.logits : on_device(gradient, bytes);
    step.logits_stride = step.gradient_stride = stride;
    step.row_losses = on_device(row_losses, real * rows);
    step.hits = on_device(hits, rows);
    step.loss = on_device(&reduced, sizeof reduced);
    EXPECT(ala_cuda_launch(bound, workspace, stream, &step), ALA_STATUS_OK, NULL);
    EXPECT(ala_cuda_poll(workspace, stream, &ready, &polled), ALA_STATUS_OK, NULL);
    MUST(ready == 0);
    for (int polls = 0; polls < 1000000 && !ready; polls++)
      EXPECT(ala_cuda_poll(workspace, stream, &ready, &polled), ALA_STATUS_OK, NULL);
    EXPECT(ala_cuda_read(workspace, stream, &summary), ALA_STATUS_OK, NULL);
    MUST(ready == 1 && polled.loss == summary.loss && polled.counted_rows == summary.counted_rows);
    to_host(gradient, step.gradient, bytes);
    to_host(row_losses, step.row_losses, real * rows);
    to_host(hits, step.hits, rows);
    to_host(&reduced, step.loss, sizeof reduced);
    MUST(reduced == (float)summary.loss);
    EXPECT(ala_cuda_workspace_reset(workspace, stream), ALA_STATUS_OK, NULL);
    EXPECT(ala_cuda_workspace_destroy(workspace), ALA_STATUS_OK, NULL);
    EXPECT(ala_cuda_destroy(bound), ALA_STATUS_OK, NULL);
    MUST(current() == context);
  }
  EXPECT(ala_loss_destroy(loss), ALA_STATUS_OK, NULL);
  fwrite(&summary, sizeof summary, 1, stdout);
  fwrite(gradient, 1, bytes, stdout);
  fwrite(row_losses, 1, real * rows, stdout);
  fwrite(hits, 1, rows, stdout);
  return failures != 0;
}

static const uint64_t COUNTS[] = {500, 50, 5};

/* Of what a loss is made of. */
static void create_errors(void) {
  AlaLossOptions good = {.size = sizeof good, .objective = ALA_OBJECTIVE_ALA}, options;
  AlaLoss *loss = (AlaLoss *)&good;
  uint64_t zero[] = {4, 0};
  double weights[] = {1, -1, 1};
  size_t classes = 0;
  EXPECT(ala_loss_create(NULL, COUNTS, 3, &loss), ALA_STATUS_NULL, "AlaLossOptions is null");
  MUST(loss == NULL);
  EXPECT(ala_loss_create(&good, NULL, 3, &loss), ALA_STATUS_NULL, "counts is null");
  EXPECT(ala_loss_create(&good, COUNTS, 3, NULL), ALA_STATUS_NULL, "out is null");
  EXPECT(ala_loss_create(&good, COUNTS, 0, &loss), ALA_STATUS_PARAMETER, "class counts are empty");
  EXPECT(ala_loss_create(&good, COUNTS, SIZE_MAX, &loss), ALA_STATUS_SHAPE, "address space");
  EXPECT(ala_loss_create(&good, (uint64_t *)((char *)COUNTS + 1), 1, &loss), ALA_STATUS_ARGUMENT,
         "must be a multiple of 8");
  EXPECT(ala_loss_create(&good, zero, 2, &loss), ALA_STATUS_PARAMETER, "class 1 has count 0");
#define WITH(field, value, status, part)                                \
  options = good;                                                       \
  options.field = value;                                                \
  EXPECT(ala_loss_create(&options, COUNTS, 3, &loss), status, part);    \
  MUST(loss == NULL)
  WITH(size, 0, ALA_STATUS_ARGUMENT, "AlaLossOptions.size is 0: it must be sizeof(AlaLossOptions)");
  WITH(size, 4097, ALA_STATUS_ARGUMENT, "AlaLossOptions.size is 4097");
  WITH(objective, 11, ALA_STATUS_ARGUMENT, "objective is 11: it must be at most 10");
  WITH(input, 2, ALA_STATUS_ARGUMENT, "input is 2");
  WITH(reduction, 3, ALA_STATUS_ARGUMENT, "reduction is 3");
  WITH(zero_counts, 2, ALA_STATUS_ARGUMENT, "zero_counts is 2");
  WITH(quantity_log, 2, ALA_STATUS_ARGUMENT, "quantity_log is 2");
  WITH(difficulty_gradient, 2, ALA_STATUS_ARGUMENT, "difficulty_gradient is 2");
  WITH(has_ignore_label, 2, ALA_STATUS_ARGUMENT, "has_ignore_label is 2");
  WITH(reserved, 1, ALA_STATUS_ARGUMENT, "reserved");
  WITH(ignore_label, -100, ALA_STATUS_CALL, "has_ignore_label is 0");
  WITH(scale, -1, ALA_STATUS_PARAMETER, "scale is -1");
  WITH(scale, NAN, ALA_STATUS_PARAMETER, "scale is NaN");
  WITH(tau, -1, ALA_STATUS_PARAMETER, "log_prior_tau is -1");
  WITH(gamma, 2, ALA_STATUS_CALL, "gamma is given, and the objective Ala has none");
  WITH(margin, NAN, ALA_STATUS_CALL, "margin is given");
  WITH(class_weights, weights, ALA_STATUS_PARAMETER, "class weight is -1");
  WITH(class_weights, (double *)((char *)weights + 1), ALA_STATUS_ARGUMENT, "class_weights is at");
  options = good;
  options.zero_counts = ALA_ZERO_COUNTS_TREAT_AS_ONE;
  EXPECT(ala_loss_create(&options, zero, 2, &loss), ALA_STATUS_OK, NULL);
  EXPECT(ala_loss_classes(loss, &classes), ALA_STATUS_OK, NULL);
  MUST(classes == 2);
  EXPECT(ala_loss_classes(NULL, &classes), ALA_STATUS_NULL, "loss is null");
  EXPECT(ala_loss_classes(loss, NULL), ALA_STATUS_NULL, "classes is null");
  EXPECT(ala_loss_destroy(loss), ALA_STATUS_OK, NULL);
  EXPECT(ala_loss_destroy(NULL), ALA_STATUS_OK, NULL);
  EXPECT(ala_loss_destroy((AlaLoss *)1), ALA_STATUS_ARGUMENT, "loss is at 0x1");
}

static void step_errors(void) {
  float logits[6] = {0.8f, 0.1f, -0.3f, 0.2f, 0.4f, 0.1f}, gradient[6], row_losses[2];
  float upstream[2] = {1, 1};
  int64_t labels[2] = {0, 2}, bad[2] = {0, 3};
  uint8_t hits[2] = {7, 7};
  AlaSummary summary = {7, 7, 7};
  AlaLossOptions options = {.objective = ALA_OBJECTIVE_ALA};
  AlaLoss *loss = loss_of(options, COUNTS, 3);
  AlaCpuStep good = {.size = sizeof good, .rows = 2, .logits = logits, .labels = labels}, step;
  good.gradient = gradient;
  good.row_losses = row_losses;
  good.hits = hits;
  memset(gradient, 77, sizeof gradient);
  EXPECT(ala_evaluate(NULL, &good, &summary), ALA_STATUS_NULL, "loss is null");
  EXPECT(ala_evaluate(loss, NULL, &summary), ALA_STATUS_NULL, "AlaCpuStep is null");
  EXPECT(ala_evaluate(loss, &good, NULL), ALA_STATUS_NULL, "summary is null");
#undef WITH
#define WITH(field, value, status, part) \
  step = good;                           \
  step.field = value;                    \
  EXPECT(ala_evaluate(loss, &step, &summary), status, part)
  WITH(size, 8, ALA_STATUS_ARGUMENT, "AlaCpuStep.size is 8");
  WITH(element, 4, ALA_STATUS_ARGUMENT, "element is 4");
  WITH(label, 4, ALA_STATUS_ARGUMENT, "label is 4");
  WITH(reserved, 4, ALA_STATUS_ARGUMENT, "reserved");
  WITH(upstream_kind, 3, ALA_STATUS_ARGUMENT, "upstream_kind is 3");
  WITH(logits, NULL, ALA_STATUS_NULL, "logits is null");
  WITH(labels, NULL, ALA_STATUS_NULL, "labels is null");
  WITH(logits, (char *)logits + 1, ALA_STATUS_ARGUMENT, "logits is at");
  WITH(labels, (char *)labels + 4, ALA_STATUS_ARGUMENT, "labels is at");
  WITH(gradient, (char *)gradient + 2, ALA_STATUS_ARGUMENT, "gradient is at");
  WITH(gradient, logits + 1, ALA_STATUS_CALL, "logits and gradient overlap");
  WITH(row_losses, gradient, ALA_STATUS_CALL, "gradient and row_losses overlap");
  WITH(hits, (uint8_t *)labels, ALA_STATUS_CALL, "labels and hits overlap");
  WITH(logits_stride, 2, ALA_STATUS_SHAPE, "logits has row stride 2");
  WITH(gradient_stride, 2, ALA_STATUS_SHAPE, "gradient has row stride 2");
  WITH(rows, SIZE_MAX, ALA_STATUS_SHAPE, "exceed the address space");
  WITH(labels, bad, ALA_STATUS_LABEL, "row 1 has label 3: labels must lie in 0..3");
  WITH(upstream, upstream, ALA_STATUS_CALL, "upstream is given");
  WITH(upstream_kind, ALA_UPSTREAM_SCALAR, ALA_STATUS_NULL, "upstream is null");
  good.upstream = upstream;
  WITH(upstream_kind, ALA_UPSTREAM_PER_ROW, ALA_STATUS_CALL, "Reduction::None");
  good.upstream = NULL;
  step = good;
  step.gradient = logits;
  step.gradient_stride = 4;
  EXPECT(ala_evaluate(loss, &step, &summary), ALA_STATUS_CALL, "at stride 4");
  for (size_t place = 0; place < sizeof gradient; place++) MUST(((char *)gradient)[place] == 77);
  MUST(summary.loss == 7 && hits[0] == 7 && hits[1] == 7);
  step = good;
  step.rows = 0;
  step.logits = step.labels = NULL;
  EXPECT(ala_evaluate(loss, &step, &summary), ALA_STATUS_OK, NULL);
  MUST(summary.loss == 0 && summary.counted_rows == 0);
  EXPECT(ala_evaluate(loss, &good, &summary), ALA_STATUS_OK, NULL);
  MUST(summary.counted_rows == 2 && hits[0] == 1 && hits[1] == 0);
  EXPECT(ala_loss_destroy(loss), ALA_STATUS_OK, NULL);
}

static void cuda_errors(void) {
  float logits[6] = {0.8f, 0.1f, -0.3f, 0.2f, 0.4f, 0.1f}, ones[2] = {1, 1};
  int64_t labels[2] = {0, 2}, bad[2] = {0, 3};
  AlaSummary summary = {7, 7, 7};
  AlaLossOptions options = {.objective = ALA_OBJECTIVE_ALA};
  AlaLoss *loss = loss_of(options, COUNTS, 3);
  AlaCudaLoss *bound = NULL;
  AlaCudaWorkspace *workspace = NULL;
  AlaCudaStep good = {.size = sizeof good, .rows = 2}, step;
  uint64_t upstream;
  uint32_t ready = 7;
  EXPECT(ala_cuda_probe(), ALA_STATUS_OK, NULL);
  EXPECT(ala_cuda_bind(loss, 1000, &bound), ALA_STATUS_DRIVER, "opening the device failed with");
  MUST(bound == NULL);
  EXPECT(ala_cuda_bind(NULL, 0, &bound), ALA_STATUS_NULL, "loss is null");
  EXPECT(ala_cuda_bind(loss, 0, NULL), ALA_STATUS_NULL, "out is null");
  primary();
  EXPECT(ala_cuda_bind(loss, 0, &bound), ALA_STATUS_OK, NULL);
  EXPECT(ala_cuda_load(NULL, 0), ALA_STATUS_NULL, "bound is null");
  EXPECT(ala_cuda_load(bound, 4), ALA_STATUS_ARGUMENT, "element is 4");
  EXPECT(ala_cuda_load(bound, ALA_ELEMENT_F64), ALA_STATUS_ARGUMENT, "ALA_ELEMENT_F64");
  EXPECT(ala_cuda_workspace_create(NULL, 2, &workspace), ALA_STATUS_NULL, "bound is null");
  EXPECT(ala_cuda_workspace_create(bound, SIZE_MAX, &workspace), ALA_STATUS_SHAPE, "address space");
  EXPECT(ala_cuda_workspace_create(bound, SIZE_MAX / 16, &workspace), ALA_STATUS_DRIVER,
         "allocating the workspace failed");
  MUST(workspace == NULL);
  EXPECT(ala_cuda_workspace_create(bound, 2, &workspace), ALA_STATUS_OK, NULL);
  good.logits = on_device(logits, sizeof logits);
  good.gradient = on_device(logits, sizeof logits);
  good.labels = on_device(labels, sizeof labels);
  upstream = on_device(ones, sizeof ones);
  EXPECT(ala_cuda_launch(NULL, workspace, NULL, &good), ALA_STATUS_NULL, "bound is null");
  EXPECT(ala_cuda_launch(bound, NULL, NULL, &good), ALA_STATUS_NULL, "workspace is null");
  EXPECT(ala_cuda_launch(bound, workspace, NULL, NULL), ALA_STATUS_NULL, "AlaCudaStep is null");
#undef WITH
#define WITH(field, value, status, part) \
  step = good;                           \
  step.field = value;                    \
  EXPECT(ala_cuda_launch(bound, workspace, NULL, &step), status, part)
  WITH(size, 8, ALA_STATUS_ARGUMENT, "AlaCudaStep.size is 8");
  WITH(element, ALA_ELEMENT_F64, ALA_STATUS_ARGUMENT, "the kernels have f32, f16 and bf16");
  WITH(element, 4, ALA_STATUS_ARGUMENT, "element is 4");
  WITH(label, 4, ALA_STATUS_ARGUMENT, "label is 4");
  WITH(reserved, 1, ALA_STATUS_ARGUMENT, "reserved");
  WITH(overlap, 2, ALA_STATUS_ARGUMENT, "overlap is 2");
  WITH(has_skip, 2, ALA_STATUS_ARGUMENT, "has_skip is 2");
  WITH(has_skip, 1, ALA_STATUS_CALL, "skip_if_upstream compares one number");
  WITH(skip_if_upstream, 1, ALA_STATUS_CALL, "has_skip is 0");
  WITH(logits, 0, ALA_STATUS_NULL, "the logits is at address 0x0");
  WITH(labels, good.labels + 4, ALA_STATUS_ARGUMENT, "must be a multiple of 8");
  WITH(logits_stride, 2, ALA_STATUS_SHAPE, "logits has row stride 2");
  WITH(gradient_stride, 2, ALA_STATUS_SHAPE, "gradient has row stride 2");
  WITH(rows, 3, ALA_STATUS_SHAPE, "the workspace holds 2 rows: 3 are needed");
  WITH(rows, SIZE_MAX, ALA_STATUS_SHAPE, "address space");
  WITH(upstream, upstream, ALA_STATUS_CALL, "upstream is given");
  WITH(upstream_kind, 3, ALA_STATUS_ARGUMENT, "upstream_kind is 3");
  WITH(upstream_kind, ALA_UPSTREAM_SCALAR, ALA_STATUS_NULL, "the upstream gradient is at");
  WITH(upstream_kind, ALA_UPSTREAM_PER_ROW, ALA_STATUS_CALL, "Reduction::None");
  EXPECT(ala_cuda_read(NULL, NULL, &summary), ALA_STATUS_NULL, "workspace is null");
  EXPECT(ala_cuda_read(workspace, NULL, NULL), ALA_STATUS_NULL, "summary is null");
  EXPECT(ala_cuda_poll(NULL, NULL, &ready, &summary), ALA_STATUS_NULL, "workspace is null");
  EXPECT(ala_cuda_poll(workspace, NULL, NULL, &summary), ALA_STATUS_NULL, "ready is null");
  EXPECT(ala_cuda_poll(workspace, NULL, &ready, NULL), ALA_STATUS_NULL, "summary is null");
  EXPECT(ala_cuda_workspace_reset(NULL, NULL), ALA_STATUS_NULL, "workspace is null");
  MUST(summary.loss == 7);
  /* A label out of range is told by the read, once. */
  step = good;
  step.labels = on_device(bad, sizeof bad);
  EXPECT(ala_cuda_launch(bound, workspace, NULL, &step), ALA_STATUS_OK, NULL);
  EXPECT(ala_cuda_read(workspace, NULL, &summary), ALA_STATUS_LABEL, "row 1 has label 3");
  MUST(summary.loss == 7);
  EXPECT(ala_cuda_launch(bound, workspace, NULL, &good), ALA_STATUS_OK, NULL);
  EXPECT(ala_cuda_read(workspace, NULL, &summary), ALA_STATUS_OK, NULL);
  MUST(summary.counted_rows == 2);
  EXPECT(ala_cuda_workspace_destroy(NULL), ALA_STATUS_OK, NULL);
  EXPECT(ala_cuda_workspace_destroy((AlaCudaWorkspace *)1), ALA_STATUS_ARGUMENT, "workspace is at");
  EXPECT(ala_cuda_workspace_destroy(workspace), ALA_STATUS_OK, NULL);
  EXPECT(ala_cuda_destroy(NULL), ALA_STATUS_OK, NULL);
  EXPECT(ala_cuda_destroy(bound), ALA_STATUS_OK, NULL);
  EXPECT(ala_loss_destroy(loss), ALA_STATUS_OK, NULL);
}

/* Binds to the context that is current, and leaves what is current. */
static void bind_current(void) {
  AlaLossOptions options = {.objective = ALA_OBJECTIVE_ALA};
  AlaLoss *loss = loss_of(options, COUNTS, 3);
  AlaCudaLoss *bound = NULL;
  AlaCudaWorkspace *workspace = NULL;
  void *context;
  EXPECT(ala_cuda_bind_current(loss, &bound), ALA_STATUS_DEVICE, "no CUDA context is current");
  MUST(bound == NULL);
  EXPECT(ala_cuda_bind(loss, 0, &bound), ALA_STATUS_OK, NULL);
  EXPECT(ala_cuda_workspace_create(bound, 2, &workspace), ALA_STATUS_OK, NULL);
  MUST(current() == NULL);
  EXPECT(ala_cuda_workspace_destroy(workspace), ALA_STATUS_OK, NULL);
  EXPECT(ala_cuda_destroy(bound), ALA_STATUS_OK, NULL);
  context = primary();
  EXPECT(ala_cuda_bind_current(loss, &bound), ALA_STATUS_OK, NULL);
  EXPECT(ala_cuda_bind_current(loss, NULL), ALA_STATUS_NULL, "out is null");
  EXPECT(ala_cuda_destroy(bound), ALA_STATUS_OK, NULL);
  MUST(current() == context);
  EXPECT(ala_loss_destroy(loss), ALA_STATUS_OK, NULL);
}

static void no_driver(void) {
  AlaLossOptions options = {.objective = ALA_OBJECTIVE_ALA};
  AlaLoss *loss = loss_of(options, COUNTS, 3);
  AlaCudaLoss *bound = NULL;
  EXPECT(ala_cuda_probe(), ALA_STATUS_NO_DRIVER, "no CUDA driver: libcuda.so.1");
  EXPECT(ala_cuda_bind(loss, 0, &bound), ALA_STATUS_NO_DRIVER, "no CUDA driver: libcuda.so.1");
  EXPECT(ala_cuda_bind_current(loss, &bound), ALA_STATUS_NO_DRIVER, "no CUDA driver");
  MUST(bound == NULL);
  EXPECT(ala_cuda_destroy(bound), ALA_STATUS_OK, NULL);
  EXPECT(ala_loss_destroy(loss), ALA_STATUS_OK, NULL);
}

/* The example's step on a device: its result is the host's, a bad label a later step's error. */
static void example(void) {
  const float cosines[2][3] = {{0.8f, 0.1f, -0.3f}, {0.2f, 0.4f, 0.1f}};
  const int64_t labels[2] = {0, 2}, bad[2] = {0, 3};
  float expected[2][3], gradient[2][3] = {{0}};
  AlaLossOptions options = {.objective = ALA_OBJECTIVE_ALA};
  AlaLoss *loss = loss_of(options, COUNTS, 3);
  AlaCpuStep host = {.size = sizeof host, .rows = 2, .logits = cosines, .labels = labels};
  AlaCudaLoss *bound = NULL;
  AlaCudaWorkspace *workspace = NULL;
  AlaSummary on_host, summary;
  AlaStatus status = ALA_STATUS_OK;
  uint64_t x, y, wrong, g;
  void *stream;
  host.gradient = expected;
  EXPECT(ala_evaluate(loss, &host, &on_host), ALA_STATUS_OK, NULL);
  primary();
  stream = new_stream();
  EXPECT(ala_cuda_bind(loss, 0, &bound), ALA_STATUS_OK, NULL);
  EXPECT(ala_cuda_workspace_create(bound, 2, &workspace), ALA_STATUS_OK, NULL);
  x = on_device(cosines, sizeof cosines);
  y = on_device(labels, sizeof labels);
  wrong = on_device(bad, sizeof bad);
  g = on_device(gradient, sizeof gradient);
  EXPECT(enqueue_step(bound, workspace, stream, 2, x, y, g), ALA_STATUS_OK, NULL);
  EXPECT(ala_cuda_read(workspace, stream, &summary), ALA_STATUS_OK, NULL);
  MUST(fabs(summary.loss - on_host.loss) <= 2e-6 * on_host.loss);
  to_host(gradient, g, sizeof gradient);
  for (int i = 0; i < 6; i++) {
    float of_host = expected[i / 3][i % 3];
    MUST(fabsf(gradient[i / 3][i % 3] - of_host) <= 1e-5f * fabsf(of_host) + 3e-6f);
  }
  EXPECT(enqueue_step(bound, workspace, stream, 2, x, wrong, g), ALA_STATUS_OK, NULL);
  for (int steps = 0; steps < 1000000 && status == ALA_STATUS_OK; steps++)
    status = enqueue_step(bound, workspace, stream, 2, x, y, g);
  EXPECT(status, ALA_STATUS_LABEL, "row 1 has label 3");
  EXPECT(ala_cuda_read(workspace, stream, &summary), ALA_STATUS_OK, NULL);
  EXPECT(ala_cuda_workspace_destroy(workspace), ALA_STATUS_OK, NULL);
  EXPECT(ala_cuda_destroy(bound), ALA_STATUS_OK, NULL);
  EXPECT(ala_loss_destroy(loss), ALA_STATUS_OK, NULL);
}

int main(int count, char **words) {
  const char *what = count > 1 ? words[1] : "";
  MUST(ala_version() == ALA_VERSION);
  if (!strcmp(what, "cpu") && count == 7) return step(0, words + 2);
  if (!strcmp(what, "cuda") && count == 7) return step(1, words + 2);
  if (!strcmp(what, "errors")) create_errors(), step_errors();
  else if (!strcmp(what, "cuda-errors")) cuda_errors();
  else if (!strcmp(what, "current")) bind_current();
  else if (!strcmp(what, "no-driver")) no_driver();
  else if (!strcmp(what, "example")) example();
  else return 2;
  return failures != 0;
}
