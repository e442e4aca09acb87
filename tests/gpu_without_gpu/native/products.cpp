// The matrix products of cuBLAS that CuPy calls; products.py does the sums.

#include <initializer_list>

#include "memory.h"

namespace {

enum Status { kSuccess = 0, kMappingError = 11, kNotSupported = 15 };
enum Type { kFloat32 = 0, kFloat64 = 1 };  // two of the values of cudaDataType

void* stream_in_use;

// Column after column, as in FORTRAN; `leading` elements from one column to the next.
struct Matrix {
  const char* data;
  int type, leading;
};

}  // namespace

// Read by products.py, field by field in this order.
struct Product {
  int transpose_a, transpose_b, rows, columns, inner;
  Matrix a, b, c;
};

namespace {

// CuPy multiplies with alpha = 1 and beta = 0, as float64 for float64 and as float32 for all other types.
template <class T>
bool is_plain(const void* alpha, const void* beta) {
  return *static_cast<const T*>(alpha) == 1 && *static_cast<const T*>(beta) == 0;
}

Matrix matrix(const void* data, int type, int leading) { return {static_cast<const char*>(data), type, leading}; }

}  // namespace

extern "C" {

int (*gpu_multiply)(const Product*) = nullptr;  // set by products.py

int cublasCreate_v2(void** handle) {
  *handle = &stream_in_use;
  return kSuccess;
}

int cublasDestroy_v2(void*) { return kSuccess; }

int cublasSetStream_v2(void*, void* stream) {
  stream_in_use = stream;
  return kSuccess;
}

int cublasGetMathMode(void*, int* mode) {
  *mode = 0;
  return kSuccess;
}

int cublasSetMathMode(void*, int) { return kSuccess; }

int cublasGemmEx(void*, int ta, int tb, int m, int n, int k, const void* alpha, const void* a, int type_a, int lda,
                 const void* b, int type_b, int ldb, const void* beta, void* c, int type_c, int ldc, int, int) {
  for (const void* data : {a, b, static_cast<const void*>(c)}) {
    if (device_of(data) != current_device()) return kMappingError;
  }
  if (!(type_c == kFloat64 ? is_plain<double> : is_plain<float>)(alpha, beta)) return kNotSupported;
  count_launch(stream_in_use);
  const Product product = {ta, tb, m, n, k, matrix(a, type_a, lda), matrix(b, type_b, ldb), matrix(c, type_c, ldc)};
  return gpu_multiply(&product);
}

}  // extern "C"

namespace {

// Products of matrices that pointers in device memory lead to.
template <class T>
int batched(void* handle, int ta, int tb, int m, int n, int k, const T* alpha, const T* const* a, int lda,
            const T* const* b, int ldb, const T* beta, T* const* c, int ldc, int batch) {
  constexpr int type = sizeof(T) == 8 ? kFloat64 : kFloat32;
  int status = kSuccess;
  for (int i = 0; i < batch && status == kSuccess; ++i) {
    status = cublasGemmEx(handle, ta, tb, m, n, k, alpha, a[i], type, lda, b[i], type, ldb, beta, c[i], type, ldc, type,
                          0);
  }
  return status;
}

}  // namespace

extern "C" {

int cublasSgemmBatched(void* handle, int ta, int tb, int m, int n, int k, const float* alpha, const float* const* a,
                       int lda, const float* const* b, int ldb, const float* beta, float* const* c, int ldc,
                       int batch) {
  return batched(handle, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, batch);
}

int cublasDgemmBatched(void* handle, int ta, int tb, int m, int n, int k, const double* alpha, const double* const* a,
                       int lda, const double* const* b, int ldb, const double* beta, double* const* c, int ldc,
                       int batch) {
  return batched(handle, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, batch);
}

int cublasGemmStridedBatchedEx(void* handle, int ta, int tb, int m, int n, int k, const void* alpha, const void* a,
                               int type_a, int lda, long long step_a, const void* b, int type_b, int ldb,
                               long long step_b, const void* beta, void* c, int type_c, int ldc, long long step_c,
                               int batch, int compute, int algorithm) {
  if (type_c > kFloat64) return kNotSupported;  // CuPy converts half precision before
  const int size = type_c == kFloat64 ? 8 : 4;
  int status = kSuccess;
  for (long long i = 0; i < batch && status == kSuccess; ++i) {
    status = cublasGemmEx(handle, ta, tb, m, n, k, alpha, static_cast<const char*>(a) + i * step_a * size, type_a, lda,
                          static_cast<const char*>(b) + i * step_b * size, type_b, ldb, beta,
                          static_cast<char*>(c) + i * step_c * size, type_c, ldc, compute, algorithm);
  }
  return status;
}

}  // extern "C"
