// Pools over (N, H, W, C) images. Forward, a thread takes an output element; backward, an input
// element, which gathers from the windows that it lies in.
#include "scalar.cuh"

// the place of an element: `at` runs over (n, row, column, c)
#define PLACE(at, rows, columns)                                  \
    const long long c = at % channels;                            \
    const int column = (int)(at / channels % columns);            \
    const int row = (int)(at / channels / columns % rows);        \
    const long long n = at / channels / columns / rows

extern "C" __global__ void max_pool(const scalar* x, scalar* y, long long* indices,
                                    long long images, long long channels, int height, int width,
                                    int p_size, int q_size, int kernel_h, int kernel_w,
                                    int stride_h, int stride_w, int pad_h, int pad_w,
                                    int dilation_h, int dilation_w) {
    for (EACH(at, images * p_size * q_size * channels)) {
        PLACE(at, p_size, q_size);
        real most = -infinity();
        long long index = -1;
        for (int i = 0; i < kernel_h; ++i) {
            const long long h = (long long)row * stride_h - pad_h + (long long)i * dilation_h;
            if (h < 0 || h >= height) continue;
            for (int j = 0; j < kernel_w; ++j) {
                const long long w = (long long)column * stride_w - pad_w + (long long)j * dilation_w;
                if (w < 0 || w >= width) continue;
                const real v = load(x, ((n * height + h) * width + w) * channels + c);
                if (v > most || v != v || index < 0) {
                    most = v;
                    index = h * width + w;
                }
            }
        }
        store(y, at, most);
        indices[at] = index;
    }
}

extern "C" __global__ void max_pool_grad(const scalar* grad_output, const long long* indices,
                                         scalar* grad_input, long long images, long long channels,
                                         int height, int width, int p_size, int q_size,
                                         int kernel_h, int kernel_w, int stride_h, int stride_w,
                                         int pad_h, int pad_w, int dilation_h, int dilation_w) {
    for (EACH(at, images * height * width * channels)) {
        PLACE(at, height, width);
        const long long index = (long long)row * width + column;
        double sum = 0;
        for (int i = 0; i < kernel_h; ++i) {
            const long long down = row + pad_h - (long long)i * dilation_h;
            if (down < 0 || down % stride_h || down / stride_h >= p_size) continue;
            for (int j = 0; j < kernel_w; ++j) {
                const long long right = column + pad_w - (long long)j * dilation_w;
                if (right < 0 || right % stride_w || right / stride_w >= q_size) continue;
                const long long window =
                    ((n * p_size + down / stride_h) * q_size + right / stride_w) * channels + c;
                if (indices[window] == index) sum += load(grad_output, window);
            }
        }
        store(grad_input, at, (real)sum);
    }
}

// Means: window k of an axis is [begin[k], end[k]) of its pixels, and its divisor is given. Pixels
// of an axis lie in windows [low[i], high[i]).

extern "C" __global__ void mean_pool(const scalar* x, scalar* y, const long long* top,
                                     const long long* bottom, const long long* left,
                                     const long long* right, const double* divisor,
                                     long long images, long long channels, int height, int width,
                                     int p_size, int q_size) {
    for (EACH(at, images * p_size * q_size * channels)) {
        PLACE(at, p_size, q_size);
        double sum = 0;
        for (long long h = top[row]; h < bottom[row]; ++h)
            for (long long w = left[column]; w < right[column]; ++w)
                sum += load(x, ((n * height + h) * width + w) * channels + c);
        store(y, at, (real)(sum / divisor[(long long)row * q_size + column]));
    }
}

extern "C" __global__ void mean_pool_grad(const scalar* grad_output, scalar* grad_input,
                                          const long long* top, const long long* bottom,
                                          const long long* left, const long long* right,
                                          const double* divisor, long long images,
                                          long long channels, int height, int width, int p_size,
                                          int q_size) {
    for (EACH(at, images * height * width * channels)) {
        PLACE(at, height, width);
        double sum = 0;
        for (long long p = top[row]; p < bottom[row]; ++p)
            for (long long q = left[column]; q < right[column]; ++q)
                sum += load(grad_output, ((n * p_size + p) * q_size + q) * channels + c) /
                       divisor[p * q_size + q];
        store(grad_input, at, (real)sum);
    }
}
