/* Stands in for the driver's libnvidia-ml.so.1: every call reads its answer anew from the text file $NVML_STATE.
 *
 *   device UUID USED RESERVED [CARD]     a GPU; with the UUID of a card, a MIG instance of that GPU
 *   process UUID compute|graphics PID BYTES|na
 *   error FUNCTION CODE                  FUNCTION answers with this error; with -1 it never answers
 *
 * Structures and codes are those of NVIDIA's reference. With -DOLD the library is that of a driver before 510, which
 * lacks functions; a driver can also have a function that only answers NVML_ERROR_FUNCTION_NOT_FOUND (13).
 */

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long long Bytes;
typedef struct { char uuid[96], card[96]; Bytes used, reserved; } Entry, *Device;
typedef struct { unsigned pid; Bytes used; unsigned gpu_instance, compute_instance; } Process;
typedef struct { Bytes total, free, used; } Memory1;
typedef struct { unsigned version; Bytes total, reserved, free, used; } Memory2;

enum { SUCCESS = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, VERSION_MISMATCH = 25, MOST = 16 };

static Entry devices[MOST]; /* handles point into this */
static struct { char uuid[96], list[16]; Process process; } processes[MOST];
static int device_count, process_count;

/* Reads the file; answers with the error that it has for `function`, or 0. */
static int load(const char *function) {
    char line[512], name[96], list[16], used[32], card[96];
    int code = SUCCESS, wanted;
    unsigned pid;
    Bytes first, second;
    FILE *file = fopen(getenv("NVML_STATE"), "r");
    if (!file) abort();
    device_count = process_count = 0;
    while (fgets(line, sizeof line, file)) {
        card[0] = 0;
        if (sscanf(line, "error %95s %d", name, &wanted) == 2) {
            if (!strcmp(name, function)) code = wanted;
        } else if (sscanf(line, "device %95s %llu %llu %95s", name, &first, &second, card) >= 3) {
            strcpy(devices[device_count].uuid, name);
            strcpy(devices[device_count].card, card);
            devices[device_count].used = first;
            devices[device_count++].reserved = second;
        } else if (sscanf(line, "process %95s %15s %u %31s", name, list, &pid, used) == 4) {
            strcpy(processes[process_count].uuid, name);
            strcpy(processes[process_count].list, list);
            processes[process_count].process.pid = pid;
            processes[process_count++].process.used = strcmp(used, "na") ? strtoull(used, NULL, 10) : (Bytes)-1;
        } else {
            abort();
        }
    }
    fclose(file);
    while (code < 0) pause();
    return code;
}

#define LOAD do { int code = load(__func__); if (code) return code; } while (0)

int nvmlInitWithFlags(unsigned flags) { (void)flags; LOAD; return SUCCESS; }

const char *nvmlErrorString(int code) { return code == VERSION_MISMATCH ? "Argument version mismatch" : "Other"; }

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    LOAD;
    snprintf(version, length, "570.00");
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Device *device) {
    char older[128]; /* an instance's name before driver 470: by its place, here that in the file */
    LOAD;
    for (int i = 0; i < device_count; i++) {
        snprintf(older, sizeof older, "MIG-%s/%d/0", devices[i].card, i);
        if (!strcmp(devices[i].uuid, uuid) || !strcmp(older, uuid)) { *device = &devices[i]; return SUCCESS; }
    }
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(Device device, char *uuid, unsigned length) {
    LOAD;
    snprintf(uuid, length, "%s", device->uuid);
    return SUCCESS;
}

/* The MIG instance of this number; NULL beyond the last. */
static Device instance(Device card, unsigned index) {
    for (int i = 0; i < device_count; i++)
        if (!strcmp(devices[i].card, card->uuid) && !index--) return &devices[i];
    return NULL;
}

int nvmlDeviceGetMigMode(Device device, unsigned *current, unsigned *pending) {
    LOAD;
    if (device->card[0]) return NOT_SUPPORTED;
    *current = *pending = instance(device, 0) != NULL;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(Device device, unsigned *count) { (void)device; LOAD; *count = 7; return SUCCESS; }

int nvmlDeviceGetMigDeviceHandleByIndex(Device device, unsigned index, Device *found) {
    LOAD;
    *found = instance(device, index);
    return *found ? SUCCESS : NOT_FOUND;
}

int nvmlDeviceGetMemoryInfo(Device device, Memory1 *memory) {
    LOAD;
    memory->used = device->used + device->reserved; /* version 1 does not tell them apart */
    return SUCCESS;
}

#ifndef OLD
int nvmlDeviceGetMemoryInfo_v2(Device device, Memory2 *memory) {
    LOAD;
    if (memory->version != (sizeof *memory | 2u << 24)) return VERSION_MISMATCH;
    memory->used = device->used;
    memory->reserved = device->reserved;
    return SUCCESS;
}

static int running(Device device, const char *list, unsigned *count, Process *found) {
    unsigned room = *count;
    *count = 0;
    for (int i = 0; i < process_count; i++) {
        if (strcmp(processes[i].uuid, device->uuid) || strcmp(processes[i].list, list)) continue;
        if (*count < room) found[*count] = processes[i].process;
        ++*count;
    }
    return *count > room ? INSUFFICIENT_SIZE : SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(Device device, unsigned *count, Process *found) {
    LOAD;
    return running(device, "compute", count, found);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(Device device, unsigned *count, Process *found) {
    LOAD;
    return running(device, "graphics", count, found);
}
#endif
