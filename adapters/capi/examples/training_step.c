/* A cosine classifier trained through the C library, on the CPU:
 *
 *   cargo build --release -p ala-loss-capi
 *   cc adapters/capi/examples/training_step.c -Iadapters/capi/include \
 *     target/release/libala_loss_capi.a -lpthread -ldl -lm && ./a.out
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "ala_loss.h"

enum { CLASSES = 3, WIDTH = 2, ROWS = 4 };

static void must(AlaStatus status) {
  if (status == ALA_STATUS_OK) return;
  fprintf(stderr, "%s\n", ala_last_error());
  exit(1);
}

/* Rows of WIDTH numbers divided by their length. */
static void unit_rows(const float *rows, int count, float *unit, float *lengths) {
  for (int r = 0; r < count; r++) {
    float squares = 1e-12f;
    for (int k = 0; k < WIDTH; k++) squares += rows[r * WIDTH + k] * rows[r * WIDTH + k];
    lengths[r] = sqrtf(squares);
    for (int k = 0; k < WIDTH; k++) unit[r * WIDTH + k] = rows[r * WIDTH + k] / lengths[r];
  }
}

/* One step of gradient descent for the class weights [CLASSES, WIDTH]; gives the loss. */
static double train_step(const AlaLoss *loss, const float *features, const int64_t *labels,
                         float *weights, float rate) {
  float x[ROWS * WIDTH], w[CLASSES * WIDTH], of_x[ROWS], of_w[CLASSES];
  float cosines[ROWS][CLASSES], gradient[ROWS][CLASSES];
  AlaCpuStep step = {.size = sizeof step, .element = ALA_ELEMENT_F32, .label = ALA_LABEL_I64};
  AlaSummary summary;
  unit_rows(features, ROWS, x, of_x);
  unit_rows(weights, CLASSES, w, of_w);
  for (int r = 0; r < ROWS; r++)
    for (int c = 0; c < CLASSES; c++) {
      cosines[r][c] = 0; /* Not scaled: the loss does that. */
      for (int k = 0; k < WIDTH; k++) cosines[r][c] += x[r * WIDTH + k] * w[c * WIDTH + k];
    }

  step.rows = ROWS;
  step.logits = cosines;
  step.labels = labels;
  step.gradient = gradient;
  must(ala_evaluate(loss, &step, &summary));

  /* What points along a class's weights changes nothing. */
  for (int c = 0; c < CLASSES; c++)
    for (int r = 0; r < ROWS; r++)
      for (int k = 0; k < WIDTH; k++) {
        float across = x[r * WIDTH + k] - cosines[r][c] * w[c * WIDTH + k];
        weights[c * WIDTH + k] -= rate * gradient[r][c] * across / of_w[c];
      }
  return summary.loss;
}

/* The loss's part of a step on a GPU: device addresses, and the stream of the caller's kernels,
 * which is where it must run. Waits for nothing. */
AlaStatus enqueue_step(const AlaCudaLoss *bound, AlaCudaWorkspace *workspace, void *stream,
                       size_t rows, uint64_t cosines, uint64_t labels, uint64_t gradient) {
  AlaCudaStep step = {.size = sizeof step, .element = ALA_ELEMENT_F32, .label = ALA_LABEL_I64};
  AlaSummary earlier;
  uint32_t ready;
  /* ALA_STATUS_LABEL where an earlier step had a bad label. */
  AlaStatus status = ala_cuda_poll(workspace, stream, &ready, &earlier);
  if (status != ALA_STATUS_OK) return status;
  step.rows = rows;
  step.logits = cosines;
  step.labels = labels;
  step.gradient = gradient;
  return ala_cuda_launch(bound, workspace, stream, &step);
}

int main(void) {
  uint64_t counts[CLASSES] = {500, 50, 5}; /* Training samples of each class. */
  float features[ROWS * WIDTH] = {1, 0.1f, 0.9f, -0.2f, -0.8f, 1, -0.5f, -1};
  int64_t labels[ROWS] = {0, 0, 1, 2};
  float weights[CLASSES * WIDTH] = {0.2f, 1, -1, 0.3f, 0.5f, -0.1f};
  AlaLossOptions options = {.size = sizeof options, .objective = ALA_OBJECTIVE_ALA, .scale = 30};
  AlaLoss *loss = NULL;
  must(ala_loss_create(&options, counts, CLASSES, &loss));
  for (int step = 0; step < 100; step++) {
    double value = train_step(loss, features, labels, weights, 0.01f);
    if (step % 33 == 0) printf("step %d: loss %.4f\n", step, value);
  }
  must(ala_loss_destroy(loss));
  return 0;
}
