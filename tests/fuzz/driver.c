/* Runs a fuzz target over files, without libFuzzer: each argument is a file, or
 * "-" for a list of files, one per line, on standard input. */
#include "fuzz_common.h"

static void run_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    uint8_t *data;
    long size;

    CHECK(f != NULL && fseek(f, 0, SEEK_END) == 0);
    size = ftell(f);
    CHECK(size >= 0 && fseek(f, 0, SEEK_SET) == 0);
    data = malloc(size != 0 ? (size_t)size : 1);
    CHECK(data != NULL && fread(data, 1, (size_t)size, f) == (size_t)size);
    fclose(f);
    fprintf(stderr, "%s\n", path); /* the last line of a crash names its input */
    LLVMFuzzerTestOneInput(data, (size_t)size);
    free(data);
}

static int run_list(void)
{
    char line[4096];
    int n = 0;

    for (; fgets(line, sizeof(line), stdin) != NULL; n++) {
        line[strcspn(line, "\n")] = '\0';
        run_file(line);
    }
    return n;
}

int main(int argc, char **argv)
{
    int n = 0;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-") == 0) {
            n += run_list();
        } else {
            run_file(argv[i]);
            n++;
        }
    }
    printf("%d inputs\n", n);
    return 0;
}
