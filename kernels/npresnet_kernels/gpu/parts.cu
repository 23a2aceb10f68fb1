// What blocks of implicit products leave in parts, added up in one fixed order. RESULT is the type of
// a weight's gradient.
#include "scalar.cuh"

typedef RESULT result;

// The shares of each element added up in order and put where the weights' gradient has them, (outs,
// channels, taps). A share has `step` elements, (outs or more, places, padded); `places` tells each
// one's tap, -1 for none. A slice of `outs` has `count` shares, and groups of `group` outs and
// `channels` channels: what lies between groups is nobody's.
extern "C" __global__ void add_parts(const float* parts, result* sum, const int* places,
                                     long long step, int slices, int count, int outs,
                                     int place_count, int padded, int group, int channels,
                                     int taps) {
    const long long own = (long long)outs * place_count * padded;
    for (EACH(at, slices * own)) {
        const int slice = at / own;
        const long long i = at % own;
        const int c = i % padded, tap = places[i / padded % place_count];
        const int row = i / padded / place_count;
        if (c / channels != row / group || tap < 0) continue;
        const float* first = parts + slice * count * step + i;
        double total = 0;
        for (int z = 0; z < count; ++z) total += first[z * step];
        const long long out = (long long)slice * outs + row;
        sum[(out * channels + c % channels) * taps + tap] = Scalar<result>::store((float)total);
    }
}

// Some blocks' moments, joined: (groups, 2, columns) sums, and sums of squares about zero less what
// those of the blocks' means are. In double, where that loses nothing.
extern "C" __global__ void join_moments(const float* parts, double* joined, int blocks, int rows,
                                        int columns, int tile, int share) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= columns) return;
    const int first = blockIdx.y * share;
    const int last = first + share < blocks ? first + share : blocks;
    double sum = 0, squares = 0;
    for (int b = first; b < last; ++b) {
        const double part = parts[2LL * b * columns + column];
        const int count = rows - b * tile < tile ? rows - b * tile : tile;
        sum += part;
        squares += parts[(2LL * b + 1) * columns + column] + part * part / count;
    }
    joined[2LL * blockIdx.y * columns + column] = sum;
    joined[(2LL * blockIdx.y + 1) * columns + column] = squares;
}

// moments, (2, columns): means, `bias` among them, and biased variances.
extern "C" __global__ void finish_moments(const double* joined, const float* bias, float* moments,
                                          int groups, int rows, int columns) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= columns) return;
    double sum = 0, squares = 0;
    for (int g = 0; g < groups; ++g) {
        sum += joined[2LL * g * columns + column];
        squares += joined[(2LL * g + 1) * columns + column];
    }
    const double mean = sum / rows, variance = squares / rows - mean * mean;
    moments[column] = (float)(mean + (bias ? (double)bias[column] : 0));
    moments[columns + column] = variance < 0 ? 0 : (float)variance;
}
