/* The brightness of each block of 8 × 8 pixels, out of a JPEG's bytes.
 *
 * It is what libjpeg's decoding at an eighth gives, level by level, but of the coefficients that
 * make a block's texture nothing is read but how many bits they take. Those lengths do not have to
 * be looked up one by one: a table of all 8,192 words of 13 bits holds how far each leads, most of
 * them over two or three coefficients at once.
 *
 * Whatever is not plain (progressive, arithmetic, CMYK, RGB, several scans, anything broken or cut
 * off) is answered with 0, and left to libjpeg. ITU-T T.81 says what the markers and codes mean.
 *
 * Compiled to WebAssembly (build.py): what a hostile picture could make of a mistake in here stays
 * inside the sandbox.
 */

#include <stddef.h>
#include <stdint.h>

enum {
    SOF0 = 0xC0, SOF1 = 0xC1, DHT = 0xC4, RST0 = 0xD0, SOI = 0xD8, SOS = 0xDA, DQT = 0xDB,
    DRI = 0xDD, APP0 = 0xE0, APP14 = 0xEE, APP15 = 0xEF, COM = 0xFE, FILL = 0xFF
};

enum {
    WINDOW = 13,           /* bits looked up at once; 12 and 14 are slower */
    LONGEST = 16,          /* bits of a code word, at most */
    COEFFICIENTS = 64,     /* of a block */
    SLOTS = 4,             /* for tables of a kind, in one picture */
    MOST_COMPONENTS = 3,
    MOST_BLOCKS = 10,      /* of an MCU (T.81, B.2.3) */
    MOST_BYTES = 16 << 20, /* of a picture; as in __init__.py */
    MOST_LEVELS = 1 << 20  /* of 64 million pixels */
};

enum { MEANS, TEXTURES, KINDS };

/* A Huffman code as a DHT segment describes it. */
typedef struct {
    uint8_t counts[LONGEST];   /* of words, by length from 1 on */
    uint8_t symbols[256];      /* in the order of their words */
} Code;

typedef struct {
    Code code;
    int laid;                        /* whether what follows is that code's */
    uint16_t words[1 << LONGEST];    /* by the next 16 bits: length << 8 | symbol; 0: no word */
    uint16_t strides[1 << WINDOW];   /* by the next 13: see lay_means, lay_textures; 0: too long */
} Table;

typedef struct {
    int id, across, down, quantiser;
    const Table *mean, *texture;
    int32_t level;                   /* of the block before: what comes is the difference */
} Component;

typedef struct {
    const uint8_t *at, *end;
    uint64_t bits;                   /* the highest `left` of them are still to be read */
    int left;
} Reader;

/* Cameras do not change their codes from picture to picture, so tables outlive a call. */
static Table tables[KINDS][SLOTS];

static int big_endian_16(const uint8_t *at) { return at[0] << 8 | at[1]; }

static uint32_t big_endian_32(const uint8_t *at) {
    uint32_t value;
    __builtin_memcpy(&value, at, sizeof value);
    return __builtin_bswap32(value);
}

/* ------------------------------------------------------------------ Huffman tables */

/* The number that `size` bits mean (T.81, F.2.2.1): half of each size is negative. */
static int extended(int bits, int size) {
    return bits < 1 << (size - 1) ? bits - (1 << size) + 1 : bits;
}

static int lay_words(Table *table, int most) {
    uint32_t at = 0, all = 1 << LONGEST;
    const uint8_t *symbol = table->code.symbols;
    for (int length = 1; length <= LONGEST; length++)
        for (int n = table->code.counts[length - 1]; n; n--) {
            uint32_t behind = at + (all >> length);
            /* The word of ones alone is none: T.81, C.2. */
            if (behind >= all || *symbol > most) return 0;
            for (; at < behind; at++) table->words[at] = (uint16_t)(length << 8 | *symbol);
            symbol++;
        }
    for (; at < all; at++) table->words[at] = 0;
    return 1;
}

/* A stride over a mean: its difference << 4 | bits it takes. */
static void lay_means(Table *table) {
    for (int bits = 0; bits < 1 << WINDOW; bits++) {
        int word = table->words[bits << (LONGEST - WINDOW)];
        int size = word & 15, taken = (word >> 8) + size;
        int level = 0;
        table->strides[bits] = 0;
        if (!word || taken > WINDOW || size > 11) continue;   /* 12 bits with the sign */
        if (size) level = extended(bits >> (WINDOW - taken) & ((1 << size) - 1), size);
        table->strides[bits] = (uint16_t)(level * 16 | taken);
    }
}

/* A stride over texture: end of block << 11 | coefficients passed << 4 | bits they take. */
static void lay_textures(Table *table) {
    for (int bits = 0; bits < 1 << WINDOW; bits++) {
        int taken = 0, passed = 0, end = 0;
        while (!end && passed < COEFFICIENTS) {
            int word = table->words[(bits << (LONGEST - WINDOW + taken)) & 0xFFFF];
            int run = (word & 0xFF) >> 4, size = word & 15;
            int then = taken + (word >> 8) + size;
            if (!word || then > WINDOW) break;
            taken = then;
            if (size || run == 15) passed += run + 1;
            else end = 1;
        }
        table->strides[bits] = (uint16_t)(end << 11 | passed << 4 | taken);
    }
}

static int same(const Code *one, const Code *other) {
    const uint8_t *a = (const uint8_t *)one, *b = (const uint8_t *)other;
    for (size_t i = 0; i < sizeof *one; i++)
        if (a[i] != b[i]) return 0;
    return 1;
}

/* The table of a code: that of the picture before, if it had the same; NULL: it is no code. */
static const Table *table_of(const Code *code, int kind, int slot) {
    Table *table = &tables[kind][slot];
    if (table->laid && same(&table->code, code)) return table;
    table->code = *code;
    table->laid = 0;
    if (!lay_words(table, kind == MEANS ? 15 : 255)) return NULL;
    if (kind == MEANS) lay_means(table);
    else lay_textures(table);
    table->laid = 1;
    return table;
}

/* ------------------------------------------------------------------ blocks */

static inline void refill(Reader *reader) {
    if (reader->left > 32) return;
    reader->bits |= (uint64_t)big_endian_32(reader->at) << (32 - reader->left);
    reader->at += 4;
    reader->left += 32;
}

static inline int peek(const Reader *reader, int bits) { return (int)(reader->bits >> (64 - bits)); }

static inline void take(Reader *reader, int bits) {
    reader->bits <<= bits;
    reader->left -= bits;
}

/* Whether more was read than there is: the bytes behind the end are somebody else's. */
static int overran(const Reader *reader) { return reader->at - reader->left / 8 > reader->end; }

static inline int read_block(Reader *reader, Component *component) {
    refill(reader);
    int stride = (int16_t)component->mean->strides[peek(reader, WINDOW)];
    if (stride) {
        take(reader, stride & 15);
        component->level += stride >> 4;
    } else {
        int word = component->mean->words[peek(reader, LONGEST)], size = word & 15;
        if (!word) return 0;
        take(reader, word >> 8);
        component->level += size ? extended(peek(reader, size), size) : 0;
        take(reader, size);
    }
    if (component->level != (int16_t)component->level) return 0;   /* before it overflows */
    for (int place = 1; place < COEFFICIENTS;) {
        refill(reader);
        stride = component->texture->strides[peek(reader, WINDOW)];
        int end = stride >> 11, then = place + (stride >> 4 & 127);
        /* A full block has no code for its end, and the next one's words must not be passed. */
        if (stride && then + end <= COEFFICIENTS) {
            take(reader, stride & 15);
            if (end) break;
            place = then;
            continue;
        }
        int word = component->texture->words[peek(reader, LONGEST)];
        int run = (word & 0xFF) >> 4, size = word & 15;
        if (!word) return 0;
        take(reader, (word >> 8) + size);
        if (!size && run != 15) break;
        place += run + 1;
    }
    return 1;
}

/* Take out the zero that follows each 0xFF of the data, in place, up to the next marker. */
static uint8_t *unstuff(uint8_t *at, uint8_t *end, const uint8_t **stuffless) {
    const uint64_t ones = 0x0101010101010101u, highs = 0x8080808080808080u;
    uint8_t *to = at;
    for (;;) {
        for (; end - at >= 8; at += 8, to += 8) {
            uint64_t eight;
            __builtin_memcpy(&eight, at, 8);
            if ((~eight - ones) & eight & highs) break;   /* one of them is 0xFF */
            __builtin_memcpy(to, &eight, 8);
        }
        while (at < end && *at != 0xFF) *to++ = *at++;
        if (end - at < 2 || at[1]) break;
        *to++ = 0xFF;
        at += 2;
    }
    *stuffless = to;
    return at;
}

/* ------------------------------------------------------------------ a picture */

typedef struct {
    int width, height, count, interval;
    int transform;                   /* as Adobe's segment says; -1: there is none */
    Component components[MOST_COMPONENTS];
    Code codes[KINDS][SLOTS];        /* one that is not told has no words */
    int quanta[SLOTS];               /* of the mean */
    uint8_t quantised[SLOTS];        /* whether they are told */
} Picture;

/* Only remembered here: a file may hold thousands of them, of which a scan uses six. */
static int read_codes(Picture *picture, const uint8_t *at, const uint8_t *end) {
    while (at < end) {
        if (end - at < 1 + LONGEST) return 0;
        int kind = *at >> 4, slot = *at & 15, count = 0;
        at++;
        if (kind >= KINDS || slot >= SLOTS) return 0;
        Code *code = &picture->codes[kind][slot];
        *code = (Code){{0}, {0}};
        for (int i = 0; i < LONGEST; i++) count += code->counts[i] = *at++;
        if (count > 256 || end - at < count) return 0;
        for (int i = 0; i < count; i++) code->symbols[i] = *at++;
    }
    return 1;
}

static int read_frame(Picture *picture, const uint8_t *at, int size) {
    if (picture->count || size < 6 || at[0] != 8) return 0;
    picture->height = big_endian_16(at + 1);
    picture->width = big_endian_16(at + 3);
    int count = at[5], blocks = 0;
    if ((count != 1 && count != 3) || size != 6 + 3 * count) return 0;
    if (!picture->width || !picture->height) return 0;
    Component *first = picture->components;
    for (int i = 0; i < count; i++) {
        const uint8_t *it = at + 6 + 3 * i;
        Component *one = first + i;
        *one = (Component){.id = it[0], .across = it[1] >> 4, .down = it[1] & 15, .quantiser = it[2]};
        if (one->across < 1 || one->across > 4 || one->down < 1 || one->down > 4) return 0;
        if (one->across > first->across || one->down > first->down) return 0;
        if (one->quantiser >= SLOTS) return 0;
        for (int j = 0; j < i; j++)
            if (first[j].id == one->id) return 0;
        blocks += one->across * one->down;
    }
    if (count == 1) first->across = first->down = 1;   /* not interleaved: T.81, A.2.2 */
    else if (blocks > MOST_BLOCKS) return 0;
    picture->count = count;
    return 1;
}

static int read_quanta(Picture *picture, const uint8_t *at, const uint8_t *end) {
    while (at < end) {
        int wide = *at >> 4, slot = *at & 15, size = 1 + (COEFFICIENTS << wide);
        if (wide > 1 || slot >= SLOTS || end - at < size) return 0;
        picture->quanta[slot] = wide ? big_endian_16(at + 1) : at[1];
        picture->quantised[slot] = 1;
        at += size;
    }
    return 1;
}

static int read_scan(Picture *picture, const uint8_t *at, int size) {
    int count = picture->count;
    if (!count || size != 4 + 2 * count || at[0] != count) return 0;
    Component *first = picture->components;
    for (int i = 0; i < count; i++) {
        const uint8_t *it = at + 1 + 2 * i;
        int mean = it[1] >> 4, texture = it[1] & 15;
        if (it[0] != first[i].id || mean >= SLOTS || texture >= SLOTS) return 0;
        if (!picture->quantised[first[i].quantiser]) return 0;
        first[i].mean = table_of(&picture->codes[MEANS][mean], MEANS, mean);
        first[i].texture = table_of(&picture->codes[TEXTURES][texture], TEXTURES, texture);
        if (!first[i].mean || !first[i].texture) return 0;
    }
    /* RGB, by its name or by Adobe's word, is for libjpeg, which makes brightness of it. */
    return count == 1 || (first->id != 'R' && (picture->transform == -1 || picture->transform == 1));
}

/* Adobe's segment says whether three components are RGB; others have no business under its marker. */
static int read_adobe(Picture *picture, const uint8_t *at, int size) {
    static const char name[] = "Adobe";
    if (size < 12) return 1;
    for (int i = 0; i < 5; i++)
        if (at[i] != name[i]) return 1;
    picture->transform = at[11];
    return 1;
}

/* Read up to the first byte of the scan; NULL: not for us. */
static uint8_t *read_header(Picture *picture, uint8_t *at, const uint8_t *end) {
    if (end - at < 2 || at[0] != 0xFF || at[1] != SOI) return NULL;
    at += 2;
    for (;;) {
        if (end - at < 4 || at[0] != 0xFF) return NULL;
        int marker = at[1];
        if (marker == FILL) {
            at++;
            continue;
        }
        int size = big_endian_16(at + 2) - 2;
        const uint8_t *body = at + 4;
        if (size < 0 || end - body < size) return NULL;
        at += 4 + size;
        int good;
        if (marker == SOF0 || marker == SOF1) good = read_frame(picture, body, size);
        else if (marker == DHT) good = read_codes(picture, body, at);
        else if (marker == DQT) good = read_quanta(picture, body, at);
        else if (marker == DRI && size == 2) good = 1, picture->interval = big_endian_16(body);
        else if (marker == APP14) good = read_adobe(picture, body, size);
        else if (marker == SOS) return read_scan(picture, body, size) ? at : NULL;
        else good = marker == COM || (marker >= APP0 && marker <= APP15);
        if (!good) return NULL;
    }
}

/* Where a picture's bytes are put, and its levels found, 0 to 255, row by row; a row is an eighth of
 * the width, rounded up. An MCU is read before it is asked whether it was there: 10 blocks of 64
 * coefficients of 31 bits.
 */
uint8_t jpeg[MOST_BYTES + 4096];
uint8_t levels[MOST_LEVELS];

/* Read the levels of the picture in `jpeg`, of so many bytes, MOST_BYTES at most; they are changed.
 *
 * Returns rows << 16 | columns; 0 where libjpeg has to be asked.
 */
__attribute__((export_name("means")))
int32_t means(uint32_t size) {
    Picture picture = {.transform = -1};
    uint8_t *end = jpeg + size, *at = read_header(&picture, jpeg, end);
    if (!at) return 0;

    Component *first = picture.components;
    int across = first->across, down = first->down, quantum = picture.quanta[first->quantiser];
    int columns = (picture.width + 7) / 8, rows = (picture.height + 7) / 8;
    if (rows * columns > MOST_LEVELS) return 0;
    int mcus_across = (columns + across - 1) / across, mcus_down = (rows + down - 1) / down;

    Reader reader = {0};
    int until_restart = 0, restarts = 0;
    for (int y = 0; y < mcus_down; y++)
        for (int x = 0; x < mcus_across; x++) {
            if (!until_restart) {
                if (reader.at) {
                    if (end - at < 2 || at[1] != RST0 + (restarts++ & 7)) return 0;
                    at += 2;
                }
                reader = (Reader){.at = at};
                at = unstuff(at, end, &reader.end);
                for (int i = 0; i < picture.count; i++) first[i].level = 0;
                until_restart = picture.interval ? picture.interval : mcus_across * mcus_down;
            }
            until_restart--;
            for (int i = 0; i < picture.count; i++)
                for (int block = 0; block < first[i].across * first[i].down; block++) {
                    if (!read_block(&reader, &first[i])) return 0;
                    int row = y * down + block / across, column = x * across + block % across;
                    if (i || row >= rows || column >= columns) continue;
                    /* As libjpeg's jpeg_idct_1x1; what its table of limits would wrap is left. */
                    int level = (first->level * quantum + 4) >> 3;
                    if (level < -512 || level > 511) return 0;
                    level += 128;
                    levels[row * columns + column] =
                        (uint8_t)(level < 0 ? 0 : level > 255 ? 255 : level);
                }
            if (overran(&reader)) return 0;
        }
    return rows << 16 | columns;
}
