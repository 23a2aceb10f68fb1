// Operands brought into the form that implicit products read: elements of type SCALAR, channels in
// whole vectors with zeros behind. FROM is the type that they come in.
#include "scalar.cuh"

typedef FROM from;

// out (rows, places, padded) of weights: `w` + row * row_step + column * column_step + its place, zero
// for places < 0. Rows come in slices, whose columns begin anew; columns that aren't of a row's group
// are zeros. Of rows and of columns one is counted within its group in w (its wrap), the other isn't.
extern "C" __global__ void pack_weight(const from* w, scalar* out, const int* places, int rows,
                                       int place_count, int padded, int slice_rows,
                                       int slice_columns, int group_rows, int group_columns,
                                       int row_wrap, int column_wrap, int row_step,
                                       int column_step) {
    const long long total = (long long)rows * place_count * padded;
    for (EACH(i, total)) {
        const int within = i % padded, place = places[i / padded % place_count];
        const int row = i / padded / place_count;
        const int column = row / slice_rows * slice_columns + within;
        real v = 0;
        if (within < slice_columns && place >= 0 && column / group_columns == row / group_rows)
            v = (real)Scalar<from>::load(w[(long long)(row % row_wrap) * row_step +
                                           (long long)(column % column_wrap) * column_step + place]);
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
