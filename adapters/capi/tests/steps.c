/* What tests/from_c.rs runs: steps of numbers that it hands over, and every way for a call to fail.
 *
 *   steps cpu|cuda ELEMENT ROWS CLASSES STRIDE in_place|apart plain|recipe
 *                                       reads counts, logits, labels and a recipe's second labels,
 *                                       lambdas and row weights from the standard input, writes
 *                                       summary, gradient, row losses, hits, predictions and class
 *                                       counts to the standard output
 *   steps recipes | cuda-recipes | counts | cuda-counts | divisor | first-sizes |
 *         cuda-first-sizes | capture | errors | cuda-errors | no-driver | current | example
 *                                       ends with 0 where all is as it must be
 */
#include <dlfcn.h>
#include <math.h>
#include <stddef.h>
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
  int in_place = !strcmp(words[4], "in_place"), recipe = !strcmp(words[5], "recipe");
  size_t bytes = size * stride * rows, of_counts = 2 * classes * sizeof(uint64_t);
  uint64_t *counts = read_in(sizeof *counts * classes);
  char *logits = read_in(bytes);
  int64_t *labels = read_in(sizeof *labels * rows);
  int32_t *second = recipe ? read_in(sizeof *second * rows) : NULL;
  void *lambdas = recipe ? read_in(real * rows) : NULL;
  void *weights = recipe ? read_in(real * rows) : NULL;
  void *gradient = in_place ? logits : filled(bytes, 77);
  void *row_losses = filled(real * rows, 77);
  uint8_t *hits = filled(rows, 77);
  uint32_t *predictions = filled(sizeof *predictions * rows, 77);
  uint64_t *class_counts = filled(of_counts, 0);
  AlaSummary summary;
  AlaLossOptions options = {.objective = ALA_OBJECTIVE_ALA, .scale = 30, .has_ignore_label = 1};
  AlaLoss *loss;
  options.ignore_label = -100;
  options.label_smoothing = recipe ? 0.125 : 0;
  loss = loss_of(options, counts, classes);
  if (!on_cuda) {
    AlaCpuStep step = {.size = sizeof step, .element = element, .rows = rows, .logits = logits};
    step.labels = labels;
    step.gradient = gradient;
    step.logits_stride = step.gradient_stride = stride;
    step.row_losses = row_losses;
    step.hits = hits;
    if (recipe) {
      step.second_labels = second;
      step.second_label = ALA_LABEL_I32;
      step.lambda_kind = ALA_LAMBDA_PER_ROW;
      step.lambdas = lambdas;
      step.row_weights = weights;
      step.divisor_kind = ALA_DIVISOR_ROWS;
      step.predictions = predictions;
    }
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
    if (recipe) {
      step.second_labels = on_device(second, sizeof *second * rows);
      step.second_label = ALA_LABEL_I32;
      step.lambda_kind = ALA_LAMBDA_PER_ROW;
      step.lambdas = on_device(lambdas, real * rows);
      step.row_weights = on_device(weights, real * rows);
      step.divisor_kind = ALA_DIVISOR_ROWS;
      step.predictions = on_device(predictions, sizeof *predictions * rows);
      step.class_counts = on_device(class_counts, of_counts);
    }
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
    if (recipe) {
      to_host(predictions, step.predictions, sizeof *predictions * rows);
      to_host(class_counts, step.class_counts, of_counts);
    }
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
  fwrite(predictions, sizeof *predictions, rows, stdout);
  fwrite(class_counts, 1, of_counts, stdout);
  return failures != 0;
}

/* A step on the host, or what it says on a device, of float logits and int64_t labels. A device
 * adds to class_counts. */
static AlaSummary run_on(int on_cuda, const AlaLoss *loss, const AlaCpuStep *host,
                         uint64_t *class_counts) {
  static const size_t of_label[] = {8, 4, 4, 1};
  AlaSummary summary = {7, 7, 7};
  AlaCudaLoss *bound = NULL;
  AlaCudaWorkspace *workspace = NULL;
  AlaCudaStep step = {.size = sizeof step, .rows = host->rows};
  size_t rows = host->rows, classes, bytes;
  float divisor = (float)host->divisor;
  void *stream;
  if (!on_cuda) {
    EXPECT(ala_evaluate(loss, host, &summary), ALA_STATUS_OK, NULL);
    return summary;
  }
  EXPECT(ala_loss_classes(loss, &classes), ALA_STATUS_OK, NULL);
  bytes = rows * classes * sizeof(float);
  primary();
  stream = new_stream();
  EXPECT(ala_cuda_bind(loss, 0, &bound), ALA_STATUS_OK, NULL);
  EXPECT(ala_cuda_workspace_create(bound, rows, &workspace), ALA_STATUS_OK, NULL);
  step.logits = on_device(host->logits, bytes);
  step.labels = on_device(host->labels, rows * sizeof(int64_t));
  if (host->gradient) step.gradient = on_device(host->gradient, bytes);
  if (host->second_labels)
    step.second_labels = on_device(host->second_labels, rows * of_label[host->second_label]);
  step.second_label = host->second_label;
  step.lambda_kind = host->lambda_kind;
  step.lambda = (float)host->lambda;
  if (host->lambdas) step.lambdas = on_device(host->lambdas, rows * sizeof(float));
  if (host->row_weights) step.row_weights = on_device(host->row_weights, rows * sizeof(float));
  step.divisor_kind = host->divisor_kind;
  if (divisor != 0) step.divisor = on_device(&divisor, sizeof divisor);
  if (host->predictions) step.predictions = on_device(host->predictions, rows * sizeof(uint32_t));
  if (class_counts) step.class_counts = on_device(class_counts, 2 * classes * sizeof(uint64_t));
  EXPECT(ala_cuda_launch(bound, workspace, stream, &step), ALA_STATUS_OK, NULL);
  EXPECT(ala_cuda_read(workspace, stream, &summary), ALA_STATUS_OK, NULL);
  if (host->gradient) to_host(host->gradient, step.gradient, bytes);
  if (host->predictions) to_host(host->predictions, step.predictions, rows * sizeof(uint32_t));
  if (class_counts) to_host(class_counts, step.class_counts, 2 * classes * sizeof(uint64_t));
  if (host->divisor_kind != ALA_DIVISOR_GIVEN) {
    int (*synchronize)(void *) = (int (*)(void *))driver("cuStreamSynchronize");
    float told = 7;
    double right = 0;
    uint64_t to = on_device(&told, sizeof told);
    EXPECT(ala_divisor(loss, host, &right), ALA_STATUS_OK, NULL);
    EXPECT(ala_cuda_divisor(bound, workspace, stream, &step, to), ALA_STATUS_OK, NULL);
    called(synchronize(stream));
    to_host(&told, to, sizeof told);
    MUST(fabs(told - right) <= 1e-6 * right);
  }
  EXPECT(ala_cuda_workspace_destroy(workspace), ALA_STATUS_OK, NULL);
  EXPECT(ala_cuda_destroy(bound), ALA_STATUS_OK, NULL);
  return summary;
}

/* Holds the gradient of two rows of two logits against its first column; a row's sum is 0. */
static void columns_at(int line, const float gradient[4], float first, float second) {
  const float wanted[4] = {first, -first, second, -second};
  for (int i = 0; i < 4; i++) must_at(line, fabsf(gradient[i] - wanted[i]) <= 1e-6f);
}
#define COLUMNS(first, second) columns_at(__LINE__, gradient, first, second)

/* Cross-entropy of two classes whose logits are 0: each has half of the probability, so that all
 * gradients are known without a computer. With a single label 0 a row's is (-1/2, 1/2). */
static void recipes(int on_cuda) {
  const uint64_t counts[2] = {9, 3}, zeros[4] = {5, 5, 5, 5};
  const float logits[4] = {0, 0, 0, 0}, lambdas[2] = {1, 0.25f}, weights[2] = {1, 3};
  const int64_t labels[2] = {0, 0}, ignored[2] = {0, -1};
  /* Whoever takes one type for another meets a label that is none, or a 0. */
  const int64_t as_i64[2] = {1, 1};
  const int32_t as_i32[4] = {1, 1, 9, 9};
  const uint32_t as_u32[4] = {1, 1, 9, 9};
  const uint8_t as_u8[16] = {1, 1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9};
  const void *second[] = {as_i64, as_i32, as_u32, as_u8};
  const float apart[6] = {1, 1, NAN, 2, 0, 3};
  const int64_t three[3] = {1, 0, 1};
  float gradient[4];
  uint64_t class_counts[4];
  uint32_t predictions[3] = {77, 77, 77};
  AlaLossOptions options = {.objective = ALA_OBJECTIVE_CROSS_ENTROPY, .has_ignore_label = 1};
  AlaCpuStep plain = {.size = sizeof plain, .rows = 2, .logits = logits, .labels = labels}, step;
  AlaSummary summary;
  AlaLoss *loss;
  options.ignore_label = -1;
  loss = loss_of(options, counts, 2);
  plain.gradient = gradient;

  for (uint32_t label = 0; label < 4; label++) {
    step = plain;
    step.second_labels = second[label];
    step.second_label = label;
    step.lambda_kind = ALA_LAMBDA_SCALAR;
    step.lambda = 0.75;
    summary = run_on(on_cuda, loss, &step, NULL);
    COLUMNS(-0.125f, -0.125f);
    MUST(fabs(summary.loss - log(2)) <= 1e-6 && summary.counted_rows == 2);
  }
  /* A lambda of 0 is one that is given. */
  step.lambda = 0;
  run_on(on_cuda, loss, &step, NULL);
  COLUMNS(0.25f, 0.25f);
  step.lambda_kind = ALA_LAMBDA_PER_ROW;
  step.lambdas = lambdas;
  run_on(on_cuda, loss, &step, NULL);
  COLUMNS(-0.25f, 0.125f);

  step = plain;
  step.row_weights = weights;
  summary = run_on(on_cuda, loss, &step, NULL);
  COLUMNS(-0.125f, -0.375f);
  MUST(summary.total_weight == 4);
  step.divisor_kind = ALA_DIVISOR_ROWS;
  run_on(on_cuda, loss, &step, NULL);
  COLUMNS(-0.25f, -0.75f);
  step.divisor_kind = ALA_DIVISOR_GIVEN;
  step.divisor = 8;
  summary = run_on(on_cuda, loss, &step, NULL);
  COLUMNS(-0.0625f, -0.1875f);
  MUST(summary.total_weight == 4);

  step = plain;
  step.predictions = predictions;
  step.labels = ignored;
  memcpy(class_counts, zeros, sizeof zeros);
  run_on(on_cuda, loss, &step, class_counts);
  MUST(predictions[0] == 0 && predictions[1] == ALA_NO_CLASS);
  run_on(on_cuda, loss, &plain, class_counts);
  /* Three rows of label 0 by two steps, each a hit. */
  MUST(!on_cuda || (class_counts[0] == 8 && class_counts[2] == 8));
  MUST(class_counts[1] == 5 && class_counts[3] == 5);
  step.rows = 3;
  step.logits = apart;
  step.labels = three;
  step.gradient = NULL;
  run_on(on_cuda, loss, &step, NULL);
  MUST(predictions[0] == 0 && predictions[1] == ALA_NO_CLASS && predictions[2] == 1);
  EXPECT(ala_loss_destroy(loss), ALA_STATUS_OK, NULL);

  /* Of half of the label the classes have a quarter each. */
  options.label_smoothing = 0.5;
  loss = loss_of(options, counts, 2);
  run_on(on_cuda, loss, &plain, NULL);
  COLUMNS(-0.125f, -0.125f);
  EXPECT(ala_loss_destroy(loss), ALA_STATUS_OK, NULL);
}

/* What a mean divides by: weights 1 and 3 of the classes, by those of the rows. */
static void divisors(void) {
  const uint64_t counts[2] = {9, 3};
  const double class_weights[2] = {1, 3}, weights[3] = {2, 5, 0.5}, lambdas[3] = {1, 0, 0.25};
  const float narrow[3] = {2, 5, 0.5f};
  const int64_t labels[3] = {0, -1, 1}, bad[3] = {0, 2, 1};
  const uint8_t second[3] = {0, 1, 0};
  AlaLossOptions options = {.objective = ALA_OBJECTIVE_CROSS_ENTROPY, .has_ignore_label = 1};
  AlaCpuStep good = {.size = sizeof good, .rows = 3, .labels = labels}, step;
  AlaLoss *loss;
  double divisor = 7;
  options.ignore_label = -1;
  options.class_weights = class_weights;
  options.reduction = ALA_REDUCTION_SUM; /* It does not matter. */
  loss = loss_of(options, counts, 2);
#define DIVISOR(wanted)                                              \
  EXPECT(ala_divisor(loss, &step, &divisor), ALA_STATUS_OK, NULL);   \
  MUST(divisor == wanted)
  step = good;
  DIVISOR(1 + 3);
  step.row_weights = narrow;
  DIVISOR(2 * 1 + 0.5 * 3);
  step.element = ALA_ELEMENT_F64;
  step.row_weights = weights;
  DIVISOR(2 * 1 + 0.5 * 3);
  step.second_labels = second;
  step.second_label = ALA_LABEL_U8;
  step.lambda_kind = ALA_LAMBDA_PER_ROW;
  step.lambdas = lambdas;
  DIVISOR(2 * 1 + 5 * 3 + 0.5 * (0.25 * 3 + 0.75 * 1));
  step.divisor_kind = ALA_DIVISOR_ROWS;
  DIVISOR(3);
  step.divisor_kind = ALA_DIVISOR_GIVEN;
  step.divisor = 8;
  DIVISOR(8);
  step = good;
  step.rows = 0;
  DIVISOR(0);
  divisor = 7;
#undef WITH
#define WITH(field, value, status, part) \
  step = good;                           \
  step.field = value;                    \
  EXPECT(ala_divisor(loss, &step, &divisor), status, part)
  EXPECT(ala_divisor(NULL, &good, &divisor), ALA_STATUS_NULL, "loss is null");
  EXPECT(ala_divisor(loss, NULL, &divisor), ALA_STATUS_NULL, "AlaCpuStep is null");
  EXPECT(ala_divisor(loss, &good, NULL), ALA_STATUS_NULL, "divisor is null");
  WITH(element, 4, ALA_STATUS_ARGUMENT, "element is 4");
  WITH(label, 4, ALA_STATUS_ARGUMENT, "label is 4");
  WITH(reserved, 1, ALA_STATUS_ARGUMENT, "reserved is not 0");
  WITH(reserved_2, 1, ALA_STATUS_ARGUMENT, "reserved_2 is not 0");
  WITH(labels, NULL, ALA_STATUS_NULL, "labels is null");
  WITH(labels, bad, ALA_STATUS_LABEL, "row 1 has label 2");
  WITH(divisor_kind, 3, ALA_STATUS_ARGUMENT, "divisor_kind is 3");
  WITH(divisor, 3, ALA_STATUS_CALL, "divisor is given, and divisor_kind is ALA_DIVISOR_WEIGHTS");
  WITH(lambda_kind, ALA_LAMBDA_SCALAR, ALA_STATUS_NULL, "second_labels is null");
  MUST(divisor == 7);
  EXPECT(ala_loss_destroy(loss), ALA_STATUS_OK, NULL);
}

static const uint64_t COUNTS[] = {500, 50, 5};

/* Structs of the first version: what lies behind their size is the caller's, and is not read. */
static void first_sizes(int on_cuda) {
  const size_t of_options = offsetof(AlaLossOptions, label_smoothing);
  const size_t of_cpu = offsetof(AlaCpuStep, second_labels);
  const size_t of_cuda = offsetof(AlaCudaStep, second_labels);
  const float logits[6] = {0.8f, 0.1f, -0.3f, 0.2f, 0.4f, 0.1f};
  const int64_t labels[2] = {0, 2};
  AlaLossOptions options;
  AlaCpuStep step = {.size = sizeof step, .rows = 2, .logits = logits, .labels = labels};
  AlaLoss *loss = loss_of((AlaLossOptions){.objective = ALA_OBJECTIVE_ALA}, COUNTS, 3);
  AlaLoss *first = NULL;
  AlaSummary now = run_on(on_cuda, loss, &step, NULL), summary = {7, 7, 7};
  if (sizeof(void *) == 8) MUST(of_options == 104 && of_cpu == 104 && of_cuda == 120);

  memset(&options, 0xff, sizeof options);
  memset(&options, 0, of_options);
  options.size = of_options;
  EXPECT(ala_loss_create(&options, COUNTS, 3, &first), ALA_STATUS_OK, NULL);
  if (!on_cuda) {
    memset(&step.second_labels, 0xff, sizeof step - of_cpu);
    step.size = of_cpu;
    EXPECT(ala_evaluate(first, &step, &summary), ALA_STATUS_OK, NULL);
    step.size = of_cpu - 1;
    EXPECT(ala_evaluate(first, &step, &summary), ALA_STATUS_ARGUMENT, "AlaCpuStep.size is");
  } else {
    AlaCudaStep step = {.size = of_cuda, .rows = 2};
    AlaCudaLoss *bound = NULL;
    AlaCudaWorkspace *workspace = NULL;
    memset(&step.second_labels, 0xff, sizeof step - of_cuda);
    step.logits = on_device(logits, sizeof logits);
    step.labels = on_device(labels, sizeof labels);
    EXPECT(ala_cuda_bind(first, 0, &bound), ALA_STATUS_OK, NULL);
    EXPECT(ala_cuda_workspace_create(bound, 2, &workspace), ALA_STATUS_OK, NULL);
    EXPECT(ala_cuda_launch(bound, workspace, NULL, &step), ALA_STATUS_OK, NULL);
    EXPECT(ala_cuda_read(workspace, NULL, &summary), ALA_STATUS_OK, NULL);
    step.size = of_cuda - 1;
    EXPECT(ala_cuda_launch(bound, workspace, NULL, &step), ALA_STATUS_ARGUMENT,
           "AlaCudaStep.size is");
    EXPECT(ala_cuda_workspace_destroy(workspace), ALA_STATUS_OK, NULL);
    EXPECT(ala_cuda_destroy(bound), ALA_STATUS_OK, NULL);
  }
  MUST(summary.loss == now.loss && summary.counted_rows == 2);
  EXPECT(ala_loss_destroy(first), ALA_STATUS_OK, NULL);
  options.size = of_options - 1;
  EXPECT(ala_loss_create(&options, COUNTS, 3, &first), ALA_STATUS_ARGUMENT,
         "AlaLossOptions.size is");
  EXPECT(ala_loss_destroy(loss), ALA_STATUS_OK, NULL);
}

/* A loss for new class counts is the one that these make, with all options. */
static void new_counts(void) {
  const uint64_t seen[] = {500, 500, 0}, as_one[] = {500, 500, 1};
  const double weights[] = {1, 2, 3};
  const float logits[6] = {0.8f, 0.1f, -0.3f, 0.2f, 0.4f, 0.1f};
  const int64_t labels[2] = {0, 2};
  float expected[6], gradient[6];
  AlaLossOptions options = {.objective = ALA_OBJECTIVE_ALA, .tau = 1, .scale = 20};
  AlaCpuStep step = {.size = sizeof step, .rows = 2, .logits = logits, .labels = labels};
  AlaSummary before, right, summary;
  AlaLoss *loss, *of_seen = (AlaLoss *)&step, *again = NULL;
  options.class_weights = weights;
  options.label_smoothing = 0.25;
  loss = loss_of(options, COUNTS, 3);
  before = run_on(0, loss, &step, NULL);
  EXPECT(ala_loss_with_counts(loss, seen, 3, &of_seen), ALA_STATUS_PARAMETER,
         "class 2 has count 0");
  MUST(of_seen == NULL);
  EXPECT(ala_loss_with_counts(loss, as_one, 2, &of_seen), ALA_STATUS_SHAPE,
         "class counts has 2 entries: expected 3");
  EXPECT(ala_loss_with_counts(NULL, as_one, 3, &of_seen), ALA_STATUS_NULL, "loss is null");
  EXPECT(ala_loss_with_counts(loss, NULL, 3, &of_seen), ALA_STATUS_NULL, "counts is null");
  EXPECT(ala_loss_with_counts(loss, as_one, 3, NULL), ALA_STATUS_NULL, "out is null");
  EXPECT(ala_loss_destroy(loss), ALA_STATUS_OK, NULL);

  options.zero_counts = ALA_ZERO_COUNTS_TREAT_AS_ONE;
  loss = loss_of(options, as_one, 3);
  step.gradient = expected;
  right = run_on(0, loss, &step, NULL);
  EXPECT(ala_loss_destroy(loss), ALA_STATUS_OK, NULL);
  loss = loss_of(options, COUNTS, 3);
  EXPECT(ala_loss_with_counts(loss, seen, 3, &of_seen), ALA_STATUS_OK, NULL);
  EXPECT(ala_loss_destroy(loss), ALA_STATUS_OK, NULL);
  step.gradient = gradient;
  summary = run_on(0, of_seen, &step, NULL);
  MUST(summary.loss == right.loss && summary.loss != before.loss);
  MUST(!memcmp(gradient, expected, sizeof gradient));
  /* It takes counts of 0 as the first one did. */
  EXPECT(ala_loss_with_counts(of_seen, seen, 3, &again), ALA_STATUS_OK, NULL);
  EXPECT(ala_loss_destroy(again), ALA_STATUS_OK, NULL);
  EXPECT(ala_loss_destroy(of_seen), ALA_STATUS_OK, NULL);
}

/* The same on a device, where what is bound stays. */
static void new_counts_on_device(void) {
  const uint64_t seen[] = {500, 500, 0}, as_one[] = {500, 500, 1}, alike[] = {1, 1, 1};
  const float logits[6] = {0.8f, 0.1f, -0.3f, 0.2f, 0.4f, 0.1f};
  const int64_t labels[2] = {0, 2};
  AlaLossOptions options = {.objective = ALA_OBJECTIVE_ALA, .tau = 1};
  AlaCpuStep host = {.size = sizeof host, .rows = 2, .logits = logits, .labels = labels};
  AlaCudaStep step = {.size = sizeof step, .rows = 2};
  AlaSummary before, right, summary;
  AlaCudaLoss *bound = NULL;
  AlaCudaWorkspace *workspace = NULL;
  AlaLoss *loss;
  void *context = primary(), *stream = new_stream();
  options.label_smoothing = 0.25;
  options.zero_counts = ALA_ZERO_COUNTS_TREAT_AS_ONE;
  loss = loss_of(options, as_one, 3);
  right = run_on(1, loss, &host, NULL);
  EXPECT(ala_loss_destroy(loss), ALA_STATUS_OK, NULL);
  loss = loss_of(options, COUNTS, 3);
  EXPECT(ala_cuda_bind(loss, 0, &bound), ALA_STATUS_OK, NULL);
  EXPECT(ala_loss_destroy(loss), ALA_STATUS_OK, NULL);
  EXPECT(ala_cuda_workspace_create(bound, 2, &workspace), ALA_STATUS_OK, NULL);
  step.logits = on_device(logits, sizeof logits);
  step.labels = on_device(labels, sizeof labels);
#define LAUNCH(summary)                                                                \
  EXPECT(ala_cuda_launch(bound, workspace, stream, &step), ALA_STATUS_OK, NULL);       \
  EXPECT(ala_cuda_read(workspace, stream, &summary), ALA_STATUS_OK, NULL)
  LAUNCH(before);
  EXPECT(ala_cuda_set_counts(NULL, stream, seen, 3), ALA_STATUS_NULL, "bound is null");
  EXPECT(ala_cuda_set_counts(bound, stream, NULL, 3), ALA_STATUS_NULL, "counts is null");
  EXPECT(ala_cuda_set_counts(bound, stream, seen, 2), ALA_STATUS_SHAPE, "expected 3");
  LAUNCH(summary);
  MUST(summary.loss == before.loss);
  EXPECT(ala_cuda_set_counts(bound, stream, seen, 3), ALA_STATUS_OK, NULL);
  LAUNCH(summary);
  MUST(summary.loss == right.loss && summary.loss != before.loss);
  EXPECT(ala_cuda_set_counts(bound, stream, COUNTS, 3), ALA_STATUS_OK, NULL);
  LAUNCH(summary);
  MUST(summary.loss == before.loss);
  MUST(current() == context);
  EXPECT(ala_cuda_workspace_destroy(workspace), ALA_STATUS_OK, NULL);
  EXPECT(ala_cuda_destroy(bound), ALA_STATUS_OK, NULL);

  /* Weights that become all alike. A count of 0 is refused as the first ones' were. */
  options = (AlaLossOptions){.objective = ALA_OBJECTIVE_CLASS_BALANCED, .beta = 0.9};
  loss = loss_of(options, COUNTS, 3);
  EXPECT(ala_cuda_bind(loss, 0, &bound), ALA_STATUS_OK, NULL);
  EXPECT(ala_cuda_set_counts(bound, stream, alike, 3), ALA_STATUS_OK, NULL);
  EXPECT(ala_cuda_set_counts(bound, stream, seen, 3), ALA_STATUS_PARAMETER, "class 2 has count 0");
  EXPECT(ala_cuda_destroy(bound), ALA_STATUS_OK, NULL);
  EXPECT(ala_loss_destroy(loss), ALA_STATUS_OK, NULL);
}

/* Kernels cannot be loaded while a stream is captured: a recipe's must be there. */
static void capture(void) {
  int (*begin)(void *, unsigned) = (int (*)(void *, unsigned))driver("cuStreamBeginCapture_v2");
  int (*end)(void *, void **) = (int (*)(void *, void **))driver("cuStreamEndCapture");
  const float logits[6] = {0.8f, 0.1f, -0.3f, 0.2f, 0.4f, 0.1f}, weights[2] = {1, 3};
  const int64_t labels[2] = {0, 2};
  AlaLoss *loss = loss_of((AlaLossOptions){.objective = ALA_OBJECTIVE_ALA}, COUNTS, 3);
  AlaCudaLoss *bound = NULL;
  AlaCudaWorkspace *workspace = NULL;
  AlaCudaStep step = {.size = sizeof step, .rows = 2};
  void *context = primary(), *stream = new_stream(), *graph = NULL;
  EXPECT(ala_cuda_bind(loss, 0, &bound), ALA_STATUS_OK, NULL);
  EXPECT(ala_cuda_workspace_create(bound, 2, &workspace), ALA_STATUS_OK, NULL);
  step.logits = on_device(logits, sizeof logits);
  step.labels = on_device(labels, sizeof labels);
  step.row_weights = on_device(weights, sizeof weights);
  EXPECT(ala_cuda_load_recipes(bound, ALA_ELEMENT_F32), ALA_STATUS_OK, NULL);
  called(begin(stream, 0));
  EXPECT(ala_cuda_launch(bound, workspace, stream, &step), ALA_STATUS_OK, NULL);
  called(end(stream, &graph));
  MUST(graph != NULL && current() == context);
  EXPECT(ala_cuda_workspace_destroy(workspace), ALA_STATUS_OK, NULL);
  EXPECT(ala_cuda_destroy(bound), ALA_STATUS_OK, NULL);
  EXPECT(ala_loss_destroy(loss), ALA_STATUS_OK, NULL);
}

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
#undef WITH
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
  WITH(label_smoothing, 1.5, ALA_STATUS_PARAMETER, "label smoothing is 1.5");
  WITH(label_smoothing, NAN, ALA_STATUS_PARAMETER, "label smoothing is NaN");
  WITH(class_weights, weights, ALA_STATUS_PARAMETER, "class weight is -1");
  WITH(class_weights, (double *)((char *)weights + 1), ALA_STATUS_ARGUMENT, "class_weights is at");
  options = good;
  options.objective = ALA_OBJECTIVE_FOCAL;
  options.label_smoothing = 0.1;
  EXPECT(ala_loss_create(&options, COUNTS, 3, &loss), ALA_STATUS_PARAMETER, "no smoothed form");
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
  /* One more where a step is told to begin in the midst of a number. */
  float upstream[3] = {1, 1}, lambdas[3] = {1, 0.5f}, wrong[2] = {1, -0.5f};
  int64_t labels[3] = {0, 2}, bad[2] = {0, 3}, second[3] = {1, 1};
  uint32_t beyond[2] = {1, UINT32_MAX}, predictions[3] = {7, 7};
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

  good.predictions = predictions;
  WITH(predictions, (uint32_t *)((char *)predictions + 1), ALA_STATUS_ARGUMENT,
       "predictions is at");
  WITH(predictions, (uint32_t *)gradient, ALA_STATUS_CALL, "gradient and predictions overlap");
  WITH(reserved_2, 1, ALA_STATUS_ARGUMENT, "reserved_2 is not 0");
  WITH(lambda_kind, 3, ALA_STATUS_ARGUMENT, "lambda_kind is 3");
  WITH(second_label, 4, ALA_STATUS_ARGUMENT, "second_label is 4");
  WITH(lambda_kind, ALA_LAMBDA_SCALAR, ALA_STATUS_NULL, "second_labels is null");
  WITH(lambda, 0.5, ALA_STATUS_CALL, "lambda is given, and lambda_kind is ALA_LAMBDA_NONE");
  WITH(lambda, NAN, ALA_STATUS_CALL, "lambda is given");
  WITH(lambdas, lambdas, ALA_STATUS_CALL, "lambdas is given, and lambda_kind is ALA_LAMBDA_NONE");
  WITH(second_labels, second, ALA_STATUS_CALL, "second_labels is given");
  WITH(second_label, ALA_LABEL_U8, ALA_STATUS_CALL, "second_label is given");
  WITH(row_weights, (char *)upstream + 1, ALA_STATUS_ARGUMENT, "row_weights is at");
  WITH(row_weights, wrong, ALA_STATUS_PARAMETER, "row 1 has weight -0.5");
  WITH(row_weights, row_losses, ALA_STATUS_CALL, "row_losses and row_weights overlap");
  WITH(divisor_kind, 3, ALA_STATUS_ARGUMENT, "divisor_kind is 3");
  WITH(divisor, 2, ALA_STATUS_CALL, "divisor is given, and divisor_kind is ALA_DIVISOR_WEIGHTS");
  WITH(divisor_kind, ALA_DIVISOR_GIVEN, ALA_STATUS_PARAMETER, "divisor is 0");
  good.divisor = -2;
  WITH(divisor_kind, ALA_DIVISOR_ROWS, ALA_STATUS_CALL, "divisor_kind is ALA_DIVISOR_ROWS");
  WITH(divisor_kind, ALA_DIVISOR_GIVEN, ALA_STATUS_PARAMETER, "divisor is -2");
  good.divisor = 0;
  good.second_labels = second;
  good.lambda_kind = ALA_LAMBDA_SCALAR;
  WITH(lambda, 1.5, ALA_STATUS_PARAMETER, "row 0 has lambda 1.5: it must be from 0 to 1");
  WITH(lambda, NAN, ALA_STATUS_PARAMETER, "lambda NaN");
  WITH(lambdas, lambdas, ALA_STATUS_CALL, "lambdas is given, and lambda_kind is ALA_LAMBDA_SCALAR");
  WITH(second_labels, bad, ALA_STATUS_LABEL, "row 1 has second label 3");
  WITH(second_labels, (char *)second + 4, ALA_STATUS_ARGUMENT, "second_labels is at");
  WITH(second_labels, predictions, ALA_STATUS_CALL, "second_labels and predictions overlap");
  WITH(lambda_kind, ALA_LAMBDA_PER_ROW, ALA_STATUS_NULL, "lambdas is null");
  good.second_labels = beyond;
  WITH(second_label, ALA_LABEL_U32, ALA_STATUS_LABEL, "row 1 has second label 4294967295");
  WITH(second_label, ALA_LABEL_I32, ALA_STATUS_LABEL, "row 1 has second label -1");
  WITH(second_label, ALA_LABEL_U8, ALA_STATUS_OK, NULL);
  memset(gradient, 77, sizeof gradient);
  memset(hits, 7, sizeof hits);
  predictions[0] = predictions[1] = 7;
  summary.loss = 7;
  good.second_labels = second;
  good.lambda_kind = ALA_LAMBDA_PER_ROW;
  good.lambdas = lambdas;
  WITH(lambda, 0.5, ALA_STATUS_CALL, "lambda is given, and lambda_kind is ALA_LAMBDA_PER_ROW");
  WITH(lambdas, wrong, ALA_STATUS_PARAMETER, "row 1 has lambda -0.5");
  WITH(lambdas, (char *)lambdas + 2, ALA_STATUS_ARGUMENT, "lambdas is at");
  WITH(lambdas, predictions, ALA_STATUS_CALL, "lambdas and predictions overlap");
  MUST(predictions[0] == 7 && predictions[1] == 7);
  good.predictions = NULL;
  good.second_labels = good.lambdas = NULL;
  good.lambda_kind = ALA_LAMBDA_NONE;

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
  options.reduction = ALA_REDUCTION_SUM;
  loss = loss_of(options, COUNTS, 3);
  WITH(divisor_kind, ALA_DIVISOR_ROWS, ALA_STATUS_CALL, "only Reduction::Mean divides");
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
  float wrong[2] = {1, -0.5f};
  uint64_t upstream, out_of_range;
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
  EXPECT(ala_cuda_load_recipes(NULL, 0), ALA_STATUS_NULL, "bound is null");
  EXPECT(ala_cuda_load_recipes(bound, 4), ALA_STATUS_ARGUMENT, "element is 4");
  EXPECT(ala_cuda_load_recipes(bound, ALA_ELEMENT_F64), ALA_STATUS_ARGUMENT, "ALA_ELEMENT_F64");
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
  out_of_range = on_device(wrong, sizeof wrong);
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
  WITH(lambda_kind, 3, ALA_STATUS_ARGUMENT, "lambda_kind is 3");
  WITH(second_label, 4, ALA_STATUS_ARGUMENT, "second_label is 4");
  WITH(lambda_kind, ALA_LAMBDA_SCALAR, ALA_STATUS_NULL, "the second labels is at address 0x0");
  WITH(lambda, 0.5f, ALA_STATUS_CALL, "lambda is given, and lambda_kind is ALA_LAMBDA_NONE");
  WITH(lambdas, upstream, ALA_STATUS_CALL, "lambdas is given, and lambda_kind is ALA_LAMBDA_NONE");
  WITH(second_labels, good.labels, ALA_STATUS_CALL, "second_labels is given");
  WITH(second_label, ALA_LABEL_U8, ALA_STATUS_CALL, "second_label is given");
  WITH(row_weights, upstream + 2, ALA_STATUS_ARGUMENT, "the row weights is at address");
  WITH(predictions, upstream + 2, ALA_STATUS_ARGUMENT, "the predictions is at address");
  WITH(class_counts, upstream + 4, ALA_STATUS_ARGUMENT, "the class counts is at address");
  WITH(divisor_kind, 3, ALA_STATUS_ARGUMENT, "divisor_kind is 3");
  WITH(divisor, upstream, ALA_STATUS_CALL, "divisor_kind is ALA_DIVISOR_WEIGHTS");
  WITH(divisor_kind, ALA_DIVISOR_GIVEN, ALA_STATUS_NULL, "the divisor is at address 0x0");
  EXPECT(ala_cuda_divisor(bound, workspace, NULL, &good, 0), ALA_STATUS_NULL, "the divisor is");
  EXPECT(ala_cuda_divisor(bound, workspace, NULL, &good, upstream + 2), ALA_STATUS_ARGUMENT,
         "the divisor is");
  EXPECT(ala_cuda_divisor(NULL, workspace, NULL, &good, upstream), ALA_STATUS_NULL, "bound");
  good.divisor = upstream;
  WITH(divisor_kind, ALA_DIVISOR_ROWS, ALA_STATUS_CALL, "divisor_kind is ALA_DIVISOR_ROWS");
  good.divisor_kind = ALA_DIVISOR_GIVEN;
  EXPECT(ala_cuda_divisor(bound, workspace, NULL, &good, upstream), ALA_STATUS_CALL,
         "a given divisor");
  good.divisor_kind = ALA_DIVISOR_WEIGHTS;
  good.divisor = 0;
  good.second_labels = good.labels;
  good.lambda_kind = ALA_LAMBDA_SCALAR;
  WITH(lambda, 1.5f, ALA_STATUS_PARAMETER, "lambda is 1.5: it must be from 0 to 1");
  WITH(lambda, NAN, ALA_STATUS_PARAMETER, "lambda is NaN");
  WITH(lambdas, upstream, ALA_STATUS_CALL, "lambda_kind is ALA_LAMBDA_SCALAR");
  WITH(second_labels, good.labels + 4, ALA_STATUS_ARGUMENT, "must be a multiple of 8");
  WITH(lambda_kind, ALA_LAMBDA_PER_ROW, ALA_STATUS_NULL, "the lambda is at address 0x0");
  good.lambdas = upstream;
  good.lambda_kind = ALA_LAMBDA_PER_ROW;
  WITH(lambda, 0.5f, ALA_STATUS_CALL, "lambda is given, and lambda_kind is ALA_LAMBDA_PER_ROW");
  good.second_labels = good.lambdas = 0;
  good.lambda_kind = ALA_LAMBDA_NONE;
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
  /* And so is what else a row has. */
  step.second_labels = step.labels;
  step.labels = good.labels;
  step.lambda_kind = ALA_LAMBDA_SCALAR;
  EXPECT(ala_cuda_launch(bound, workspace, NULL, &step), ALA_STATUS_OK, NULL);
  EXPECT(ala_cuda_read(workspace, NULL, &summary), ALA_STATUS_LABEL, "row 1 has second label 3");
  step.second_labels = good.labels;
  step.lambda_kind = ALA_LAMBDA_PER_ROW;
  step.lambdas = out_of_range;
  EXPECT(ala_cuda_launch(bound, workspace, NULL, &step), ALA_STATUS_OK, NULL);
  EXPECT(ala_cuda_read(workspace, NULL, &summary), ALA_STATUS_PARAMETER, "row 1 has lambda -0.5");
  step = good;
  step.row_weights = out_of_range;
  EXPECT(ala_cuda_launch(bound, workspace, NULL, &step), ALA_STATUS_OK, NULL);
  EXPECT(ala_cuda_read(workspace, NULL, &summary), ALA_STATUS_PARAMETER, "row 1 has weight -0.5");
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
  if (!strcmp(what, "cpu") && count == 8) return step(0, words + 2);
  if (!strcmp(what, "cuda") && count == 8) return step(1, words + 2);
  if (!strcmp(what, "errors")) create_errors(), step_errors();
  else if (!strcmp(what, "recipes")) recipes(0);
  else if (!strcmp(what, "cuda-recipes")) recipes(1);
  else if (!strcmp(what, "counts")) new_counts();
  else if (!strcmp(what, "cuda-counts")) new_counts_on_device();
  else if (!strcmp(what, "divisor")) divisors();
  else if (!strcmp(what, "first-sizes")) first_sizes(0);
  else if (!strcmp(what, "cuda-first-sizes")) first_sizes(1);
  else if (!strcmp(what, "capture")) capture();
  else if (!strcmp(what, "cuda-errors")) cuda_errors();
  else if (!strcmp(what, "current")) bind_current();
  else if (!strcmp(what, "no-driver")) no_driver();
  else if (!strcmp(what, "example")) example();
  else return 2;
  return failures != 0;
}
