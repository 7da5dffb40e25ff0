/*
 * The ALA loss and its long-tailed peers from C. Made from the sources by cbindgen.
 *
 * Every function but ala_version and ala_last_error returns a status, ALA_STATUS_OK (0) where all
 * went well. ala_last_error has the reason where not. No panic crosses this interface.
 *
 * Structs of options and steps begin with their size. Set everything to 0 first: 0 is the default
 * of every field. Fields that only a later version has are 0 where the caller is of this one; where
 * the library is, they must be.
 *
 * A pointer that is null or misaligned is told by a status, and so are host buffers that overlap. A
 * pointer that is dangling or to too little memory cannot be told.
 *
 * A loss and a bound loss may be used by several threads at a time, the latter but for
 * ala_cuda_set_counts. A workspace may not.
 */

#ifndef ALA_LOSS_H
#define ALA_LOSS_H

#include <stddef.h>
#include <stdint.h>

/**
 * The version of this header: 10000 times the major number, 100 times the minor, and the patch.
 */
#define ALA_VERSION 100

/**
 * The prediction of a row that has none. It is no class.
 */
#define ALA_NO_CLASS 4294967295

/**
 * What became of a call. ala_last_error has the words, with the offending number and the allowed
 * one.
 */
enum AlaStatus
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * All went well.
   */
  ALA_STATUS_OK = 0,
  /**
   * A pointer that must be given is null.
   */
  ALA_STATUS_NULL = 1,
  /**
   * An argument is none that there is: a misaligned pointer, a number that no enum has, the
   * size of a struct, a workspace of another context.
   */
  ALA_STATUS_ARGUMENT = 2,
  /**
   * A parameter of the loss or a number of the step is out of its range: class counts, scale,
   * weights, margins, lambda, divisor.
   */
  ALA_STATUS_PARAMETER = 3,
  /**
   * Rows, classes, strides or a workspace do not fit together.
   */
  ALA_STATUS_SHAPE = 4,
  /**
   * A label is neither a class nor the ignore label.
   */
  ALA_STATUS_LABEL = 5,
  /**
   * Something was given that the call does not take, or two things that exclude each other.
   */
  ALA_STATUS_CALL = 6,
  /**
   * There is no CUDA driver on this machine.
   */
  ALA_STATUS_NO_DRIVER = 7,
  /**
   * The driver or the device cannot run the kernels of this build, or the current context is
   * none that a loss can be bound to.
   */
  ALA_STATUS_DEVICE = 8,
  /**
   * A driver call failed; the text has its CUresult.
   */
  ALA_STATUS_DRIVER = 9,
  /**
   * Launches met in one workspace: its results since the last read are not to be trusted.
   * ala_cuda_workspace_reset makes it usable again.
   */
  ALA_STATUS_WORKSPACE = 10,
  /**
   * A bug of this library: it panicked. The text has the panic's message.
   */
  ALA_STATUS_PANIC = 11,
  /**
   * An error that this version of the interface has no number for.
   */
  ALA_STATUS_OTHER = 12,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum AlaStatus AlaStatus;
#else
typedef int32_t AlaStatus;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Whether the gradient flows through the difficulty factor (1 - x_y)/2.
 */
enum AlaDifficultyGradient
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * The factor is a constant of the step, as in the public OpenLT code.
   */
  ALA_DIFFICULTY_GRADIENT_DETACHED = 0,
  /**
   * The factor is differentiated too.
   */
  ALA_DIFFICULTY_GRADIENT_ATTACHED = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum AlaDifficultyGradient AlaDifficultyGradient;
#else
typedef uint32_t AlaDifficultyGradient;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What a mean divides the rows' summed losses by; but for the first only with ALA_REDUCTION_MEAN.
 */
enum AlaDivisor
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * The weights of the rows that count, added up: PyTorch's rule.
   */
  ALA_DIVISOR_WEIGHTS = 0,
  /**
   * The number of rows that count.
   */
  ALA_DIVISOR_ROWS = 1,
  /**
   * The number given, finite and above 0; 0 too where no row counts.
   */
  ALA_DIVISOR_GIVEN = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum AlaDivisor AlaDivisor;
#else
typedef uint32_t AlaDivisor;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * The type of logits and gradient.
 */
enum AlaElement
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * 32-bit float.
   */
  ALA_ELEMENT_F32 = 0,
  /**
   * IEEE half precision.
   */
  ALA_ELEMENT_F16 = 1,
  /**
   * The upper half of a 32-bit float.
   */
  ALA_ELEMENT_BF16 = 2,
  /**
   * 64-bit float; on the CPU alone.
   */
  ALA_ELEMENT_F64 = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum AlaElement AlaElement;
#else
typedef uint32_t AlaElement;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What the logits are when they reach the loss.
 */
enum AlaInput
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Not yet scaled (cosines for the margin losses): the loss multiplies by the scale.
   */
  ALA_INPUT_COSINE = 0,
  /**
   * Scaled already: the loss only adds the margin.
   */
  ALA_INPUT_PRE_SCALED = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum AlaInput AlaInput;
#else
typedef uint32_t AlaInput;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * The type of labels.
 */
enum AlaLabel
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * int64_t.
   */
  ALA_LABEL_I64 = 0,
  /**
   * int32_t.
   */
  ALA_LABEL_I32 = 1,
  /**
   * uint32_t.
   */
  ALA_LABEL_U32 = 2,
  /**
   * uint8_t.
   */
  ALA_LABEL_U8 = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum AlaLabel AlaLabel;
#else
typedef uint32_t AlaLabel;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How much of a mixed row is its first label's: L = lambda L(a) + (1 - lambda) L(b), with lambda
 * in [0, 1].
 */
enum AlaLambda
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Rows have one label.
   */
  ALA_LAMBDA_NONE = 0,
  /**
   * Rows have two; lambda is the same for every row.
   */
  ALA_LAMBDA_SCALAR = 1,
  /**
   * Rows have two, and a lambda each, `[N]`.
   */
  ALA_LAMBDA_PER_ROW = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum AlaLambda AlaLambda;
#else
typedef uint32_t AlaLambda;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * A loss for long-tailed recognition. x are the logits given, s the scale, n the class counts, pi
 * their priors, y the row's target; the loss is softmax cross-entropy over z. Beside each is what
 * it takes of AlaLossOptions.
 */
enum AlaObjective
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * ALA (Zhao et al., AAAI 2022): z_y = s (x_y - (1 - x_y)/2 QF_y), QF_y = 1/log(n_y/n_min + 1),
   * z_j = s x_j. quantity_log, difficulty_gradient; tau of a log-prior offset tau ln pi_j.
   */
  ALA_OBJECTIVE_ALA = 0,
  /**
   * z_y = s (x_y - QF_y). quantity_log.
   */
  ALA_OBJECTIVE_QUANTITY_ONLY = 1,
  /**
   * z_y = s (x_y - k (1 - x_y)/2). k, difficulty_gradient.
   */
  ALA_OBJECTIVE_DIFFICULTY_ONLY = 2,
  /**
   * Softmax cross-entropy, z = s x.
   */
  ALA_OBJECTIVE_CROSS_ENTROPY = 3,
  /**
   * Cross-entropy weighted by the effective number of samples (Cui et al., CVPR 2019). beta.
   */
  ALA_OBJECTIVE_CLASS_BALANCED = 4,
  /**
   * Focal loss (Lin et al., ICCV 2017), softmax form: -(1-p)^gamma ln p. gamma.
   */
  ALA_OBJECTIVE_FOCAL = 5,
  /**
   * Balanced Softmax (Ren et al., NeurIPS 2020): z_j = s x_j + ln n_j.
   */
  ALA_OBJECTIVE_BALANCED_SOFTMAX = 6,
  /**
   * Logit adjustment (Menon et al., ICLR 2021): z_j = s x_j + tau ln pi_j. tau.
   */
  ALA_OBJECTIVE_LOGIT_ADJUSTMENT = 7,
  /**
   * Vector scaling (Kini et al., NeurIPS 2021): z_j = s (n_j/n_max)^gamma x_j + tau ln pi_j.
   * gamma, tau.
   */
  ALA_OBJECTIVE_VECTOR_SCALING = 8,
  /**
   * LDAM (Cao et al., NeurIPS 2019): z_y = s (x_y - margin (n_min/n_y)^(1/4)). margin.
   */
  ALA_OBJECTIVE_LDAM = 9,
  /**
   * CosFace (Wang et al., CVPR 2018): z_y = s (x_y - margin). margin.
   */
  ALA_OBJECTIVE_COS_FACE = 10,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum AlaObjective AlaObjective;
#else
typedef uint32_t AlaObjective;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * The logarithm of the quantity factor.
 */
enum AlaQuantityLog
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Base 2, as in the public OpenLT code.
   */
  ALA_QUANTITY_LOG_BASE2 = 0,
  /**
   * Natural.
   */
  ALA_QUANTITY_LOG_NATURAL = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum AlaQuantityLog AlaQuantityLog;
#else
typedef uint32_t AlaQuantityLog;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How row losses become one number.
 */
enum AlaReduction
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * The weighted mean over the rows that count.
   */
  ALA_REDUCTION_MEAN = 0,
  /**
   * The sum.
   */
  ALA_REDUCTION_SUM = 1,
  /**
   * Each row for itself; a summary's loss is the sum.
   */
  ALA_REDUCTION_NONE = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum AlaReduction AlaReduction;
#else
typedef uint32_t AlaReduction;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * The gradient that arrives from what was computed with the loss.
 */
enum AlaUpstream
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * 1, and nothing is read.
   */
  ALA_UPSTREAM_ONE = 0,
  /**
   * One number: the gradient of the reduced loss.
   */
  ALA_UPSTREAM_SCALAR = 1,
  /**
   * A number for each row, `[N]`; only with ALA_REDUCTION_NONE.
   */
  ALA_UPSTREAM_PER_ROW = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum AlaUpstream AlaUpstream;
#else
typedef uint32_t AlaUpstream;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What a class without a training sample is.
 */
enum AlaZeroCounts
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * An error.
   */
  ALA_ZERO_COUNTS_REJECT = 0,
  /**
   * A class of one sample.
   */
  ALA_ZERO_COUNTS_TREAT_AS_ONE = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum AlaZeroCounts AlaZeroCounts;
#else
typedef uint32_t AlaZeroCounts;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * A loss bound to the primary context of a device. Made by ala_cuda_bind or ala_cuda_bind_current,
 * given back by ala_cuda_destroy.
 */
typedef struct AlaCudaLoss AlaCudaLoss;

/**
 * Device memory that launches need beside the caller's: a result, and one float for each row.
 * Launches that may overlap need a workspace each. Made by ala_cuda_workspace_create, given back
 * by ala_cuda_workspace_destroy.
 */
typedef struct AlaCudaWorkspace AlaCudaWorkspace;

/**
 * A loss: objective, class counts, scale, reduction, ignore label and weights. Made by
 * ala_loss_create, given back by ala_loss_destroy.
 */
typedef struct AlaLoss AlaLoss;

/**
 * What a loss is made of, beside its class counts. Set all to 0, then size and what is wanted. A
 * parameter that the objective does not take must be 0.
 */
typedef struct AlaLossOptions {
  /**
   * sizeof(AlaLossOptions).
   */
  size_t size;
  /**
   * An AlaObjective.
   */
  uint32_t objective;
  /**
   * An AlaInput. The margin losses take cosines that are not yet scaled.
   */
  uint32_t input;
  /**
   * An AlaReduction.
   */
  uint32_t reduction;
  /**
   * An AlaZeroCounts.
   */
  uint32_t zero_counts;
  /**
   * An AlaQuantityLog.
   */
  uint32_t quantity_log;
  /**
   * An AlaDifficultyGradient.
   */
  uint32_t difficulty_gradient;
  /**
   * 1 where rows with ignore_label have loss and gradient 0 and are left out of the mean, else
   * 0.
   */
  uint32_t has_ignore_label;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * The label of ignored rows.
   */
  int64_t ignore_label;
  /**
   * The logit scale s; 0 for the objective's own, which is 30 for the losses on cosines and 1
   * for the others.
   */
  double scale;
  /**
   * At least 0.
   */
  double tau;
  /**
   * At least 0; 2 is usual for focal loss.
   */
  double gamma;
  /**
   * In [0, 1); 0.9999 is usual.
   */
  double beta;
  /**
   * At least 0.
   */
  double k;
  /**
   * At least 0; 0.5 is usual for LDAM, 0.35 for CosFace.
   */
  double margin;
  /**
   * A weight for each class, `[C]`, finite and at least 0, which multiplies the objective's own;
   * or null. Copied.
   */
  const double *class_weights;
  /**
   * Label smoothing in [0, 1], PyTorch's definition on the logits with the margin; 0 for none,
   * which is all that focal loss takes.
   */
  double label_smoothing;
} AlaLossOptions;

/**
 * A step on the host, N rows of C classes. Set all to 0, then size, element, rows, logits, labels
 * and what else is wanted. Strides are in elements, from the start of one row to the next; what
 * lies between rows is neither read nor written. "Real" is double for ALA_ELEMENT_F64 and float
 * for the others. Buffers must not overlap, but for a gradient over the logits.
 */
typedef struct AlaCpuStep {
  /**
   * sizeof(AlaCpuStep).
   */
  size_t size;
  /**
   * An AlaElement: the type of logits and gradient.
   */
  uint32_t element;
  /**
   * An AlaLabel: the type of labels.
   */
  uint32_t label;
  /**
   * Rows N.
   */
  size_t rows;
  /**
   * Logits, `[N, C]`. The margin losses take cosines that are not yet scaled.
   */
  const void *logits;
  /**
   * At least C; 0 for C.
   */
  size_t logits_stride;
  /**
   * Labels, `[N]`.
   */
  const void *labels;
  /**
   * Where the gradient with respect to the logits goes, `[N, C]`; or null. The logits' own
   * address and stride write it over them.
   */
  void *gradient;
  /**
   * At least C; 0 for C.
   */
  size_t gradient_stride;
  /**
   * Where each row's weighted loss before reduction goes, `[N]` of Real; or null.
   */
  void *row_losses;
  /**
   * Where it goes whether a row's largest logit is its target's (1, else 0), `[N]`; or null.
   */
  uint8_t *hits;
  /**
   * The upstream gradient: nothing, one Real or `[N]` of Real, as upstream_kind says.
   */
  const void *upstream;
  /**
   * An AlaUpstream.
   */
  uint32_t upstream_kind;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * The loss scale of mixed precision: multiplies the gradient before it is rounded; 0 for 1.
   */
  double gradient_scale;
  /**
   * A second label for each row, `[N]`, as mixup and CutMix make them, where lambda_kind says
   * so; else null. Both losses, each with its own margin, weight and focal factor, come from one
   * pass over the row. A label whose part is 0, and one that is the ignore label, counts for
   * nothing; a row counts while one of its labels does. Hits are of the first label.
   */
  const void *second_labels;
  /**
   * An AlaLabel: the type of second_labels.
   */
  uint32_t second_label;
  /**
   * An AlaLambda.
   */
  uint32_t lambda_kind;
  /**
   * With ALA_LAMBDA_SCALAR: every row's lambda, in [0, 1].
   */
  double lambda;
  /**
   * With ALA_LAMBDA_PER_ROW: each row's lambda, `[N]` of Real, in [0, 1].
   */
  const void *lambdas;
  /**
   * A weight for each row, `[N]` of Real, finite and at least 0, which multiplies the row's loss
   * and gradient and counts in ALA_DIVISOR_WEIGHTS; or null.
   */
  const void *row_weights;
  /**
   * With ALA_DIVISOR_GIVEN: what the mean divides by, as of ala_divisor.
   */
  double divisor;
  /**
   * An AlaDivisor.
   */
  uint32_t divisor_kind;
  /**
   * 0.
   */
  uint32_t reserved_2;
  /**
   * Where each row's predicted class goes, the lowest of its largest logit, `[N]`; or null.
   * ALA_NO_CLASS where a logit is NaN and where the row does not count.
   */
  uint32_t *predictions;
} AlaCpuStep;

/**
 * The result of a step.
 */
typedef struct AlaSummary {
  /**
   * The reduced loss; the rows' sum under ALA_REDUCTION_NONE.
   */
  double loss;
  /**
   * The counted rows' summed weights: what the mean divides by, unless divisor_kind says
   * otherwise.
   */
  double total_weight;
  /**
   * Rows that were not ignored.
   */
  uint64_t counted_rows;
} AlaSummary;

/**
 * A step on a device, N rows of C classes. Set all to 0, then size, rows, logits, labels and what
 * else is wanted. Addresses are of device memory (CUdeviceptr), 0 for none. Strides are in
 * elements, from the start of one row to the next.
 */
typedef struct AlaCudaStep {
  /**
   * sizeof(AlaCudaStep).
   */
  size_t size;
  /**
   * An AlaElement but ALA_ELEMENT_F64: the type of logits and gradient.
   */
  uint32_t element;
  /**
   * An AlaLabel: the type of labels.
   */
  uint32_t label;
  /**
   * Rows N.
   */
  size_t rows;
  /**
   * Logits, `[N, C]`. The margin losses take cosines that are not yet scaled.
   */
  uint64_t logits;
  /**
   * At least C; 0 for C.
   */
  size_t logits_stride;
  /**
   * Labels, `[N]`.
   */
  uint64_t labels;
  /**
   * Where the gradient with respect to the logits goes, `[N, C]`; or 0. The logits' own address
   * and stride write it over them.
   */
  uint64_t gradient;
  /**
   * At least C; 0 for C.
   */
  size_t gradient_stride;
  /**
   * Where each row's weighted loss before reduction goes, `[N]` of float; or 0.
   */
  uint64_t row_losses;
  /**
   * Where it goes whether a row's largest logit is its target's (1, else 0), `[N]` of uint8_t;
   * or 0.
   */
  uint64_t hits;
  /**
   * Where the loss goes, one float; or 0: ala_cuda_read has it all the same.
   */
  uint64_t loss;
  /**
   * The upstream gradient: nothing, one float or `[N]` of float, as upstream_kind says.
   */
  uint64_t upstream;
  /**
   * An AlaUpstream.
   */
  uint32_t upstream_kind;
  /**
   * 1 where the step does nothing if the upstream gradient, which the device looks at, is
   * skip_if_upstream; else 0. Only with ALA_UPSTREAM_SCALAR: for a backward pass whose gradient
   * a forward pass made already.
   */
  uint32_t has_skip;
  /**
   * See has_skip.
   */
  float skip_if_upstream;
  /**
   * The loss scale of mixed precision: multiplies the gradient before it is rounded; 0 for 1.
   */
  float gradient_scale;
  /**
   * 1 where the step's kernels may begin while the kernel before them in the stream ends, else
   * 0. Results are the same.
   */
  uint32_t overlap;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * A second label for each row, `[N]`, where lambda_kind says so; else 0. As in AlaCpuStep.
   */
  uint64_t second_labels;
  /**
   * An AlaLabel: the type of second_labels.
   */
  uint32_t second_label;
  /**
   * An AlaLambda.
   */
  uint32_t lambda_kind;
  /**
   * With ALA_LAMBDA_PER_ROW: each row's lambda, `[N]` of float, in [0, 1].
   */
  uint64_t lambdas;
  /**
   * With ALA_LAMBDA_SCALAR: every row's lambda, in [0, 1]. A captured graph keeps it: where it
   * must vary, give each row's.
   */
  float lambda;
  /**
   * An AlaDivisor.
   */
  uint32_t divisor_kind;
  /**
   * With ALA_DIVISOR_GIVEN: what the mean divides by, one float, which the device does not
   * check.
   */
  uint64_t divisor;
  /**
   * A weight for each row, `[N]` of float, which multiplies the row's loss and gradient and
   * counts in ALA_DIVISOR_WEIGHTS; or 0. Each is 0, or from 1e-20 to 1e20, and the same times
   * its class's weight.
   */
  uint64_t row_weights;
  /**
   * Where each row's predicted class goes, the lowest of its largest logit, `[N]` of uint32_t;
   * or 0. ALA_NO_CLASS where a logit is NaN and where the row does not count.
   */
  uint64_t predictions;
  /**
   * Running counts, `[2, C]` of uint64_t, to which the step adds, of the rows that count and
   * whose first label is a class, by that class: the rows, then the hits; or 0.
   */
  uint64_t class_counts;
} AlaCudaStep;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The version of the library, as ALA_VERSION is of the header.
 */
uint32_t ala_version(void);

/**
 * The text of this thread's last failure, in UTF-8; empty where there was none. A call that goes
 * well leaves it. The pointer is valid until this thread's next failure or its end.
 */
const char *ala_last_error(void);

/**
 * Makes a loss of options and class counts and puts it to *out; NULL where that fails. counts has
 * the number of training samples of each class, `[classes]`, each from 1 to 2^53; copied.
 *
 * ALA_STATUS_PARAMETER names the count or the parameter that is out of range, ALA_STATUS_CALL one
 * that the objective does not take, ALA_STATUS_ARGUMENT a number that an enum does not have.
 *
 * # Safety
 * Pointers that are not null must be valid for their sizes.
 */
AlaStatus ala_loss_create(const struct AlaLossOptions *options,
                          const uint64_t *counts,
                          size_t classes,
                          struct AlaLoss **out);

/**
 * Makes the same loss for other class counts, as they come in online learning, and puts it to
 * *out; NULL where that fails. All options stay as they are, zero_counts and class weights too.
 * counts is as in ala_loss_create. The loss itself stays what it is; for one that is bound there
 * is ala_cuda_set_counts.
 *
 * ALA_STATUS_SHAPE where classes is not the loss's, ALA_STATUS_PARAMETER names the count that is
 * out of range.
 *
 * # Safety
 * loss must be one that was made and not destroyed; counts valid for its size, out for a write.
 */
AlaStatus ala_loss_with_counts(const struct AlaLoss *loss,
                               const uint64_t *counts,
                               size_t classes,
                               struct AlaLoss **out);

/**
 * Puts the number of classes C to *classes.
 *
 * # Safety
 * loss must be one that was made and not destroyed; classes valid for a write.
 */
AlaStatus ala_loss_classes(const struct AlaLoss *loss, size_t *classes);

/**
 * Destroys a loss; nothing where it is null. Losses that are bound from it stay as they are.
 *
 * # Safety
 * loss must be one that was made and not destroyed, and no call may be using it.
 */
AlaStatus ala_loss_destroy(struct AlaLoss *loss);

/**
 * Loss and gradient of a batch in the caller's memory, on the host's cores. Everything is checked
 * before anything is written: after a failure the buffers hold what they held before.
 *
 * ALA_STATUS_LABEL names the first row whose label is neither a class nor the ignore label,
 * ALA_STATUS_PARAMETER the first whose lambda or weight is out of range, ALA_STATUS_SHAPE a stride
 * below C, ALA_STATUS_CALL buffers that overlap and fields that exclude each other.
 *
 * # Safety
 * loss must be one that was made and not destroyed; the step's buffers must be valid for their
 * shapes, and nothing else may write to them meanwhile or read what is written.
 */
AlaStatus ala_evaluate(const struct AlaLoss *loss,
                       const struct AlaCpuStep *step,
                       struct AlaSummary *summary);

/**
 * Puts what a mean over the step's rows divides by to *divisor, as divisor_kind says: the weights
 * of those that count, added up, or their number; 0 where none counts. Batches that are parts of a
 * larger one divide by the sum of theirs (ALA_DIVISOR_GIVEN).
 *
 * Of the step only what says which rows count and what they weigh is read: element, label, rows,
 * labels, second labels with lambda, row_weights and the divisor's fields. It may be the step that
 * is evaluated then. Statuses are those of ala_evaluate.
 *
 * # Safety
 * loss must be one that was made and not destroyed; what is read of the step valid for its shape
 * and type; divisor valid for a write.
 */
AlaStatus ala_divisor(const struct AlaLoss *loss, const struct AlaCpuStep *step, double *divisor);

/**
 * Whether there is a CUDA driver, without calling it: ALA_STATUS_OK or ALA_STATUS_NO_DRIVER.
 */
AlaStatus ala_cuda_probe(void);

/**
 * Binds a loss to the primary context of a device, which is the one that the CUDA runtime and
 * PyTorch use, and puts it to *out; NULL where that fails. The class table is uploaded. The loss
 * may be destroyed then. The thread's current context stays what it is, as in every call.
 *
 * ALA_STATUS_NO_DRIVER, ALA_STATUS_DRIVER where there is no such device, ALA_STATUS_DEVICE,
 * ALA_STATUS_SHAPE for too many classes, ALA_STATUS_PARAMETER for a class weight that is neither 0
 * nor from 1e-20 to 1e20.
 *
 * # Safety
 * loss must be one that was made and not destroyed; out valid for a write.
 */
AlaStatus ala_cuda_bind(const struct AlaLoss *loss, uint32_t ordinal, struct AlaCudaLoss **out);

/**
 * As ala_cuda_bind, to the context that is current on this thread. ALA_STATUS_DEVICE where there
 * is none, or where it is not its device's primary context.
 *
 * # Safety
 * As ala_cuda_bind.
 */
AlaStatus ala_cuda_bind_current(const struct AlaLoss *loss, struct AlaCudaLoss **out);

/**
 * Loads the kernels for logits of an AlaElement. The first step of a type does so where it has not
 * been done; while a stream is captured into a graph it cannot be done. Steps with second labels,
 * row weights, predictions or class counts need those of ala_cuda_load_recipes.
 *
 * # Safety
 * bound must be one that was bound and not destroyed.
 */
AlaStatus ala_cuda_load(const struct AlaCudaLoss *bound, uint32_t element);

/**
 * The same for steps with second labels, row weights, predictions or class counts, and for losses
 * that smooth labels, of which ala_cuda_load loads no others. The driver compiles these kernels
 * where it has not done so before: that takes some seconds, once a machine.
 *
 * # Safety
 * bound must be one that was bound and not destroyed.
 */
AlaStatus ala_cuda_load_recipes(const struct AlaCudaLoss *bound, uint32_t element);

/**
 * Gives a bound loss new class counts as ala_loss_with_counts does, without binding it anew: the
 * class table is uploaded on the stream into the memory where it was. Launches that the stream has
 * before it see the old one, later ones the new one; so does a captured graph when it is replayed.
 * Order other streams that launch the loss yourself. Not while a stream is captured.
 *
 * ALA_STATUS_SHAPE where classes is not the loss's, ALA_STATUS_PARAMETER for a count or a class
 * weight out of range; the old ones stay then. After ALA_STATUS_DRIVER the table may be in part
 * the old one.
 *
 * # Safety
 * bound must be one that was bound and not destroyed, which no other call may be using; the stream
 * must be one of its context; counts valid for its size.
 */
AlaStatus ala_cuda_set_counts(struct AlaCudaLoss *bound,
                              void *stream,
                              const uint64_t *counts,
                              size_t classes);

/**
 * Allocates a workspace for batches of up to so many rows and puts it to *out; NULL where that
 * fails. Waits for the device's default stream: any stream may use the workspace then.
 *
 * # Safety
 * bound must be one that was bound and not destroyed; out valid for a write.
 */
AlaStatus ala_cuda_workspace_create(const struct AlaCudaLoss *bound,
                                    size_t rows,
                                    struct AlaCudaWorkspace **out);

/**
 * Enqueues loss and gradient on a stream (a CUstream or cudaStream_t; null is the default stream).
 * Allocates nothing and waits for nothing, so that it can be captured into a graph, once the
 * kernels are loaded (ala_cuda_load, ala_cuda_load_recipes).
 *
 * ALA_STATUS_SHAPE for a stride below C or more rows than the workspace has, ALA_STATUS_NULL and
 * ALA_STATUS_ARGUMENT for addresses, ALA_STATUS_CALL for an upstream gradient that does not fit or
 * fields that exclude each other, ALA_STATUS_PARAMETER for a lambda out of range,
 * ALA_STATUS_DRIVER. Nothing is launched then. What is out of range in device memory, a label, a
 * row's lambda or its weight, is told by ala_cuda_read.
 *
 * # Safety
 * bound and workspace must be ones that were made and not destroyed, and no other thread may be
 * using the workspace. The addresses must be valid for their shapes, and bound and workspace must
 * stay, until the stream has passed the launch. No buffer may overlap another, but a gradient over
 * the logits. The stream must be one of the context that the loss is bound to.
 */
AlaStatus ala_cuda_launch(const struct AlaCudaLoss *bound,
                          struct AlaCudaWorkspace *workspace,
                          void *stream,
                          const struct AlaCudaStep *step);

/**
 * Enqueues what a mean over the step's rows divides by, as divisor_kind says: one float at
 * divisor, an address in device memory. As of ala_divisor, so that batches that are parts of a
 * larger one need no host: their divisors are added up, and are each step's divisor
 * (ALA_DIVISOR_GIVEN).
 *
 * Of the step only what says which rows count and what they weigh is used: label, rows, labels,
 * second labels with lambda, row_weights and divisor_kind. Statuses are those of ala_cuda_launch,
 * ALA_STATUS_CALL where the step gives a divisor already.
 *
 * # Safety
 * As ala_cuda_launch, of what is used, and of divisor.
 */
AlaStatus ala_cuda_divisor(const struct AlaCudaLoss *bound,
                           struct AlaCudaWorkspace *workspace,
                           void *stream,
                           const struct AlaCudaStep *step,
                           uint64_t divisor);

/**
 * Waits for the stream and puts the last launch's result to *summary.
 *
 * ALA_STATUS_LABEL where, since the last read, a launch met a label that is neither a class nor
 * the ignore label, ALA_STATUS_PARAMETER where it met a lambda or a row weight out of range: the
 * first such row of the first such launch, told once. ALA_STATUS_WORKSPACE, ALA_STATUS_DRIVER
 * where the driver reports a failure, of earlier work too.
 *
 * # Safety
 * workspace must be one that was made and not destroyed, which no other thread may be using; the
 * stream must be that of its launches; summary valid for a write.
 */
AlaStatus ala_cuda_read(struct AlaCudaWorkspace *workspace,
                        void *stream,
                        struct AlaSummary *summary);

/**
 * Tells of the launches that the stream held at an earlier poll, without waiting: where they have
 * ended, *ready is 1 and *summary their result; else, as at the first poll, *ready is 0 and
 * *summary stays. One call a step tells of an earlier step. Not while the stream is captured.
 *
 * Statuses are those of ala_cuda_read.
 *
 * # Safety
 * As ala_cuda_read; ready valid for a write.
 */
AlaStatus ala_cuda_poll(struct AlaCudaWorkspace *workspace,
                        void *stream,
                        uint32_t *ready,
                        struct AlaSummary *summary);

/**
 * Makes a workspace as it was when it was new, and waits for the stream. For the time after
 * ALA_STATUS_WORKSPACE.
 *
 * # Safety
 * As ala_cuda_read; no launch may be under way in the workspace.
 */
AlaStatus ala_cuda_workspace_reset(struct AlaCudaWorkspace *workspace, void *stream);

/**
 * Destroys a workspace; nothing where it is null.
 *
 * # Safety
 * workspace must be one that was made and not destroyed; no call may be using it, and its launches
 * must have ended.
 */
AlaStatus ala_cuda_workspace_destroy(struct AlaCudaWorkspace *workspace);

/**
 * Destroys a bound loss; nothing where it is null. Workspaces stay as they are.
 *
 * # Safety
 * bound must be one that was bound and not destroyed; no call may be using it, and its launches
 * must have ended.
 */
AlaStatus ala_cuda_destroy(struct AlaCudaLoss *bound);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* ALA_LOSS_H */
