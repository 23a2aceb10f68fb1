// Patches of an image as rows of a matrix, and back: im2col and its adjoint.
//
// Images are (N, H, W, channels) in memory; a call moves `depth` of those channels, from `first` on.
// Rows are output pixels (n, p, q), columns (i, j, c). Rows `start` to `stop` of all are there.
#include "scalar.cuh"

extern "C" __global__ void im2col(const scalar* x, scalar* columns, long long start,
                                  long long stop, long long channels, long long first,
                                  long long depth, int height, int width, int p_size, int q_size,
                                  int kernel_h, int kernel_w, int stride_h, int stride_w,
                                  int pad_h, int pad_w, int dilation_h, int dilation_w) {
    const long long taps = (long long)kernel_h * kernel_w;
    for (EACH(at, (stop - start) * taps * depth)) {
        const long long c = at % depth;
        const int tap = (int)(at / depth % taps);
        const long long row = start + at / depth / taps;
        const long long n = row / ((long long)p_size * q_size);
        const int p = (int)(row / q_size % p_size), q = (int)(row % q_size);
        const long long h = (long long)p * stride_h - pad_h + (long long)(tap / kernel_w) * dilation_h;
        const long long w = (long long)q * stride_w - pad_w + (long long)(tap % kernel_w) * dilation_w;
        const bool inside = h >= 0 && h < height && w >= 0 && w < width;
        store(columns, at,
              inside ? load(x, ((n * height + h) * width + w) * channels + first + c) : (real)0);
    }
}

// Each pixel of images `image` to `image_stop` adds up the places it was copied to; with `more`, on
// top of what it holds (an image whose rows come in several calls).
extern "C" __global__ void col2im(const scalar* columns, scalar* x, long long start,
                                  long long stop, long long channels, long long first,
                                  long long depth, int height, int width, int p_size, int q_size,
                                  int kernel_h, int kernel_w, int stride_h, int stride_w,
                                  int pad_h, int pad_w, int dilation_h, int dilation_w,
                                  long long image, long long image_stop, int more) {
    const long long taps = (long long)kernel_h * kernel_w;
    for (EACH(at, (image_stop - image) * height * width * depth)) {
        const long long c = at % depth;
        const int w = (int)(at / depth % width), h = (int)(at / depth / width % height);
        const long long n = image + at / depth / width / height;
        const long long place = ((n * height + h) * width + w) * channels + first + c;
        real sum = more ? load(x, place) : (real)0;
        for (int i = 0; i < kernel_h; ++i) {
            const long long down = h + pad_h - (long long)i * dilation_h;
            if (down < 0 || down % stride_h || down / stride_h >= p_size) continue;
            for (int j = 0; j < kernel_w; ++j) {
                const long long right = w + pad_w - (long long)j * dilation_w;
                if (right < 0 || right % stride_w || right / stride_w >= q_size) continue;
                const long long row = (n * p_size + down / stride_h) * q_size + right / stride_w;
                if (row < start || row >= stop) continue;
                sum += load(columns, ((row - start) * taps + i * kernel_w + j) * depth + c);
            }
        }
        store(x, place, sum);
    }
}
