// Operands brought into the form that implicit products read: elements of type SCALAR, channels in
// whole vectors with zeros behind. FROM is the type that they come in.
#include "scalar.cuh"

typedef FROM from;

// out (rows, places, padded) of weights: `w` + row * row_step + column * column_step + its place, zero
// for places < 0 and columns past the last.
extern "C" __global__ void pack_weight(const from* w, scalar* out, const int* places, int rows,
                                       int place_count, int columns, int padded,
                                       int row_step, int column_step) {
    const long long total = (long long)rows * place_count * padded;
    for (EACH(i, total)) {
        const int column = i % padded, place = places[i / padded % place_count];
        const long long row = i / padded / place_count;
        real v = 0;
        if (column < columns && place >= 0)
            v = (real)Scalar<from>::load(w[row * row_step + (long long)column * column_step + place]);
        store(out, i, v);
    }
}

// out (rows, padded) of x (rows, columns).
extern "C" __global__ void pad_rows(const from* x, scalar* out, long long rows, int columns,
                                    int padded) {
    for (EACH(i, rows * padded)) {
        const int column = i % padded;
        store(out, i, column < columns ? (real)Scalar<from>::load(x[i / padded * columns + column]) : 0);
    }
}
