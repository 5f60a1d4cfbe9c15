
[000h 0000   4]                    Signature : "XSDT"    [Extended System Description Table]
[004h 0004   4]                 Table Length : 00000044
[008h 0008   1]                     Revision : 01
[009h 0009   1]                     Checksum : E7
[00Ah 0010   6]                       Oem ID : "VMRUN "
[010h 0016   8]                 Oem Table ID : "VMRUNPC "
[018h 0024   4]                 Oem Revision : 00000001
[01Ch 0028   4]              Asl Compiler ID : "VMRN"
[020h 0032   4]        Asl Compiler Revision : 00000001

[024h 0036   8]       ACPI Table Address   0 : 00000000000E0340
[02Ch 0044   8]       ACPI Table Address   1 : 00000000000E0480
[034h 0052   8]       ACPI Table Address   2 : 00000000000E0500
[03Ch 0060   8]       ACPI Table Address   3 : 00000000000E0540

Raw Table Data: Length 68 (0x44)

    0000: 58 53 44 54 44 00 00 00 01 E7 56 4D 52 55 4E 20  // XSDTD.....VMRUN 
    0010: 56 4D 52 55 4E 50 43 20 01 00 00 00 56 4D 52 4E  // VMRUNPC ....VMRN
    0020: 01 00 00 00 40 03 0E 00 00 00 00 00 80 04 0E 00  // ....@...........
    0030: 00 00 00 00 00 05 0E 00 00 00 00 00 40 05 0E 00  // ............@...
    0040: 00 00 00 00                                      // ....
